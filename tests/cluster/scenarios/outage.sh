# The issuer is away for longer than a token lives. Requests fail then, because bearerd has no token, and never because it sent
# one that had expired.
# shellcheck shell=bash

servers 'set?lifetime=10'
install_base
sends 100
lossless 100
servers 'set?up=false'
without_a_token() { servers summary | grep token_unavailable; }
eventually 60 "without the issuer and after the last token, requests get token_unavailable" without_a_token
sends 100
servers 'set?up=true'
served() {
  local lost now
  read -r _ _ lost _ < <(servers summary)
  sleep 3
  read -r _ _ now _ < <(servers summary)
  [ "$now" = "$lost" ]
}
eventually 60 "with the issuer, no request fails any more" served
in_each_pod bearerd_build_info >/dev/null
for pod in $(pods); do status_is "$pod" .restartCount 0 || fail "bearerd of $pod was restarted"; done
servers summary | head -1 | grep ' 0 tokens refused' || fail "an expired token was sent: $(servers summary)"
