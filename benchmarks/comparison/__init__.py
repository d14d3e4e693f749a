"""Paddock beside other servers of the same pipeline, in the same run."""
