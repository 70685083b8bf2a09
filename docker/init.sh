#!/bin/sh
# Creates the secrets of docker/compose.yaml; existing secrets are kept. Prints paths, never a secret.
# Only the owner can open the folder. The files in it are readable by all, since containers read them as other users.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets

random() { # bytes
    od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'
}

keep() { # file, text
    if [ ! -e "secrets/$1" ]; then
        (umask 077 && printf '%s' "$2" >"secrets/$1")
        chmod 444 "secrets/$1"
        echo "made secrets/$1"
    fi
}

keep ray_token "$(random 32)"
keep postgres_password "$(random 16)"
keep mlflow_password "$(random 16)"
keep grafana_password "$(random 16)"
keep s3_access_key "jepa$(random 8)"
keep s3_secret_key "$(random 20)"
keep s3_identities.json "$(
    printf '{"identities": [{"name": "jepa", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": ["Admin"]}]}' \
        "$(cat secrets/s3_access_key)" "$(cat secrets/s3_secret_key)"
)"
[ -e .env ] || cp .env.example .env
