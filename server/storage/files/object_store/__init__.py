"""Files in an object store (S3, Google Cloud Storage, Azure), and the local copies that workers read and write."""
