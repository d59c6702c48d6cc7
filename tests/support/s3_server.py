"""The real S3 server of the tests is the benchmarks' own."""

from jobs.benchmarks.s3_server import Identity, S3Server, S3ServerError, S3ServerMissing

__all__ = ["Identity", "S3Server", "S3ServerError", "S3ServerMissing"]
