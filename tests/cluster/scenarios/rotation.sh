# The Secret is replaced while applications send requests; the issuer takes both secrets for a while.
# shellcheck shell=bash

servers 'set?lifetime=10&secrets=first,second'
install_base
by_both() { [ "$(servers tokens | grep -c "^$1 ")" -ge 2 ]; }
eventually 30 "both pods have tokens by the first secret" by_both first
printf second > corp.secret
eval "$(commands docs/tutorial-kubernetes.md 'Rotate the secret')"
[ -z "$(kubectl get secret bearerd --output jsonpath='{.metadata.annotations}')" ] || fail "an annotation keeps the secret"
eventually 180 "both pods have tokens by the second secret" by_both second
servers 'set?secrets=second'
before=$(servers tokens | awk '/^second/ { n += $3 } END { print n }')
more() { [ "$(servers tokens | awk '/^second/ { n += $3 } END { print n }')" -ge $((before + 6)) ]; }
eventually 60 "tokens are renewed after the first secret is gone" more
lossless 1000
