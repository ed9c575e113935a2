# Pods are replaced while their applications send requests, some of which take two seconds.
# shellcheck shell=bash

install_base
sends 100
for _ in 1 2 3; do
  kubectl rollout restart deployment/legacy-billing
  kubectl rollout status deployment/legacy-billing --timeout=120s
done
eventually 60 "the old pods have ended" only 2
servers summary | grep ' 2 pods running, 6 pods ended' >/dev/null || fail "$(servers summary)"
lossless 500
pod=$(pods | cut --delimiter ' ' --fields 1)
deleted=$SECONDS
kubectl delete pod "$pod"
[ $((SECONDS - deleted)) -lt 20 ] || fail "a pod took $((SECONDS - deleted)) s to end"
ok "a pod with a download of two seconds ends in $((SECONDS - deleted)) s"
