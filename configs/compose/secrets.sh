#!/bin/sh
# Makes the secrets of compose.servers.yaml: `sh configs/compose/secrets.sh`, in the folder `secrets` unless another one is
# named. It refuses to write where there are some already, since PostgreSQL keeps the password of its first start.
set -eu

folder=${1:-secrets}
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# only this user can enter the folder; the files are mounted by themselves, for the users of the containers
umask 022
mkdir -m 700 "$folder"

password=$(random 24)
access=$(random 10)
secret=$(random 24)

printf '%s' "$password" > "$folder/postgres-password"
cat > "$folder/paddock.toml" <<END
[storage]
database_url = "postgresql://paddock:$password@postgres/paddock"
END
cat > "$folder/object-store" <<END
AWS_ACCESS_KEY_ID=$access
AWS_SECRET_ACCESS_KEY=$secret
END
cat > "$folder/seaweedfs.json" <<END
{
  "identities": [
    {
      "name": "paddock",
      "credentials": [{"accessKey": "$access", "secretKey": "$secret"}],
      "actions": ["Read:paddock", "Write:paddock", "List:paddock"]
    }
  ]
}
END
echo "The secrets are in $folder. Keep a copy: PostgreSQL and the object store ask for them."
