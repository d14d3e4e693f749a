"""The files of runs: their way to and from an object store, and the stills of finished videos."""
