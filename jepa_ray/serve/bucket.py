"""Creation of the bucket that stores artifacts and the state of sweeps."""

from __future__ import annotations

import re
import time

from jepa_ray.errors import ConfigError, JepaRayError

NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def make_bucket(name: str, wait_s: float) -> bool:
    """Create the bucket unless it exists; returns whether it was created. AWS_* variables give the store and its keys.

    Waits up to `wait_s` seconds for a store that is still starting. Raises `ConfigError` for an invalid name,
    `JepaRayError` if the store refuses the request or does not answer in time.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"bucket {name!r} must be 3 to 63 lower-case letters, digits, dots and hyphens")
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + wait_s
    while True:
        try:
            client = boto3.client("s3")
            if name in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                return False
            client.create_bucket(Bucket=name)
            return True
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                raise JepaRayError(f"bucket {name}: the object store refuses the request ({error})") from None
            if time.monotonic() >= deadline:
                raise JepaRayError(f"bucket {name}: no object store answered within {wait_s:g} s ({error})") from None
        time.sleep(1)
