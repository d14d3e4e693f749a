"""The use cases behind the routes: submit, wait, cancel, look up."""
