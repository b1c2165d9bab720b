#!/bin/sh
# Operator mode: makes what accounts.conf describes, with nsc. Writes operator.conf, a configuration of nats-server,
# into the folder it is run in, and creds/ with a file for each user. See docs/security.md.
#
# e2e/tests/tenancy runs this script and makes of its nsc commands the same JWTs.
set -eu

nsc add operator --name nex --sys

# The account of the nodes. JetStream keeps the artifacts: a bucket for each namespace, made by the admin.
account() {
  nsc add account --name "$1"
  nsc edit account --name "$1" --js-mem-storage -1 --js-disk-storage -1 --js-streams -1 --js-consumer -1
}
account NEX
# Tenants say --jsdomain nex, and so does what they deploy: to the node that is its own JetStream.
nsc add mapping --account NEX --from '$JS.nex.API.>' --to '$JS.API.>'

# Private exports: an account needs an activation for each, which only NEX can sign.
service() { nsc add export --account NEX --name "$1" --subject "$2" --service --private --response-type "$3"; }
stream() { nsc add export --account NEX --name "$1" --subject "$2" --private; }
service ping      '$NEX.PING'    Stream     # every node answers
service ping-node '$NEX.PING.*'  Singleton
service auction   '$NEX.AUCTION' Stream

# import ACCOUNT NAME SUBJECT [SUBJECT THERE]: activates an export of NEX for the account, and imports it
import() {
  target=$(nsc describe account "$1" --field sub | tr -d '"')
  nsc generate activation --account NEX --subject "$3" --target-account "$target" --output-file "$1-$2.jwt"
  nsc add import --account "$1" --name "$2" --token "$1-$2.jwt" --local-subject "${4:-$3}"
}

# tenant ACCOUNT NAMESPACE: exports what is the namespace's, for this account alone
tenant() {
  account "$1"
  import "$1" ping      '$NEX.PING'
  import "$1" ping-node '$NEX.PING.*'
  import "$1" auction   '$NEX.AUCTION'

  service "$2-info"    "\$NEX.INFO.$2.*"   Singleton;  import "$1" "$2-info"    "\$NEX.INFO.$2.*"
  service "$2-wping"   "\$NEX.WPING.$2"    Stream;     import "$1" "$2-wping"   "\$NEX.WPING.$2"
  service "$2-wping-1" "\$NEX.WPING.$2.*"  Stream;     import "$1" "$2-wping-1" "\$NEX.WPING.$2.*"
  service "$2-deploy"  "\$NEX.DEPLOY.$2.*" Singleton;  import "$1" "$2-deploy"  "\$NEX.DEPLOY.$2.*"
  service "$2-stop"    "\$NEX.STOP.$2.*"   Singleton;  import "$1" "$2-stop"    "\$NEX.STOP.$2.*"
  stream  "$2-events"  "\$NEX.events.$2.*";            import "$1" "$2-events"  "\$NEX.events.$2.*"
  stream  "$2-logs"    "\$NEX.logs.$2.>";              import "$1" "$2-logs"    "\$NEX.logs.$2.>"

  # The bucket of its artifacts: look, store, remove (not read, see accounts.conf); there under the domain nex, beside the account's own JetStream
  for api in "STREAM.INFO.OBJ_$2" "STREAM.MSG.GET.OBJ_$2" "DIRECT.GET.OBJ_$2.>" "STREAM.PURGE.OBJ_$2"; do
    name=$(printf %s "$2-$api" | tr -cs 'A-Za-z0-9_' '-')
    service "$name" "\$JS.API.$api" Singleton
    import "$1" "$name" "\$JS.API.$api" "\$JS.nex.API.$api"
  done
  service "$2-objects" "\$O.$2.>" Singleton;           import "$1" "$2-objects" "\$O.$2.>"

  nsc add user --account "$1" --name "$2"              # people
  nsc add user --account "$1" --name "$2-functions"    # functions: --hs_url, --hs_jwt, --hs_seed
}
tenant SHOP shop
tenant LAB  lab

# The operator of the nodes: sees everything, makes buckets, orders nodes to leave.
nsc add user --account NEX --name admin
# A node: start it with --creds creds/node.creds --inbox-prefix _INBOX.node. accounts.conf says what each is for.
nsc add user --account NEX --name node \
  --allow-pub '_INBOX.>,_R_.>,$NEX.events.>,$NEX.logs.>,_nex.round_trip.*' \
  --allow-pub '$JS.API.STREAM.INFO.*,$JS.API.STREAM.MSG.GET.*,$JS.API.DIRECT.GET.>' \
  --allow-pub '$JS.API.CONSUMER.CREATE.>,$JS.API.CONSUMER.DELETE.>,$JS.FC.>' \
  --allow-pub '$JS.nex.API.STREAM.INFO.*,$JS.nex.API.STREAM.MSG.GET.*,$JS.nex.API.DIRECT.GET.>' \
  --allow-pub '$JS.nex.API.CONSUMER.CREATE.>,$JS.nex.API.CONSUMER.DELETE.>' \
  --allow-sub '_INBOX.node.>,$NEX.PING,$NEX.PING.*,$NEX.AUCTION,$NEX.WPING.>,$NEX.INFO.*.*' \
  --allow-sub '$NEX.DEPLOY.*.*,$NEX.STOP.*.*,$NEX.LAMEDUCK.*,$SRV.*,$SRV.*.nex,$SRV.*.nex.*'

mkdir -p creds
for user in NEX/admin NEX/node SHOP/shop SHOP/shop-functions LAB/lab LAB/lab-functions; do
  nsc generate creds --account "${user%/*}" --name "${user#*/}" --output-file "creds/${user#*/}.creds"
done
nsc generate config --mem-resolver --sys-account SYS --config-file operator.conf
