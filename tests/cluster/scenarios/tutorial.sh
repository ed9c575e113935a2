# docs/tutorial-kubernetes.md, command by command, in its order.
# shellcheck shell=bash

page=docs/tutorial-kubernetes.md
printf first > corp.secret
servers 'set?lifetime=10'

# Two commands do not end by themselves, and one names a pod.
type_in() {
  case "$1" in
    'kubectl port-forward '*)
      eval "$1 &"
      eventually 20 "the admin address is forwarded" curl --silent --fail http://localhost:9180/livez
      ;;
    'kubectl debug '*)
      local pod
      pod=$(pods | cut --delimiter ' ' --fields 1)
      # A terminal for it, where somebody types as soon as the shell is there.
      : > debug.log
      (eventually 60 "the shell is there" grep '/ \$' debug.log >&2; echo 'wget -q -O - http://localhost:9180/status; exit') |
        script --quiet --flush --return --command "$(sed -E "s/legacy-billing-[0-9a-z]+-[0-9a-z]{5}/$pod/" <<< "$1")" debug.log
      grep -q '"name":"billing"' debug.log || fail "the shell does not see the status"
      ;;
    *patch.yaml)
      eval "$1"
      kubectl rollout status deployment/legacy-billing --timeout=120s
      ;;
    *) eval "$1" ;;
  esac
}

by_the_second() { servers tokens | grep '^second '; }
before() {
  case "$1" in
    'Rotate the secret') printf second > corp.secret; servers 'set?secrets=first,second' ;;
    'Without kustomize')
      lossless 200
      kubectl delete --kustomize deploy/kubernetes/base
      kubectl wait --for=delete pod --selector "$APPLICATION" --timeout=60s
      kubectl apply --filename deploy/kubernetes/base/application.yaml
      # The page's ConfigMap has one file alone, so the CA of these tests goes into the Secret.
      sed -i 's#"ca.pem"#"/run/secrets/bearerd/ca.pem"#' deploy/kubernetes/base/bearerd.toml
      kubectl create secret generic bearerd --from-file=client-secret=corp.secret --from-file="$WORK/ca.pem" --dry-run=client --output=yaml |
        kubectl replace --filename -
      ;;
  esac
}

after() {
  case "$1" in
    '3. '*) sends 100 ;;
    '4. '*)
      [ "$(curl --silent --output /dev/null --write-out '%{http_code}' http://localhost:8080/other)" = 404 ] || fail "a path without a route is not 404"
      curl --silent --fail http://localhost:9180/status | grep '"name":"billing"' >/dev/null || fail "the status page shows no route"
      ;;
    'Rotate the secret') eventually 180 "the new secret is used" by_the_second ;;
  esac
}

grep '^## ' "$REPOSITORY/$page" | sed 's/^## //' > headings
while read -r heading <&3; do
  commands "$page" "$heading" > typed
  [ -s typed ] || continue
  echo "-- $heading"
  before "$heading"
  while read -r line <&4; do
    echo "\$ $line"
    type_in "$line"
  done 4< typed
  after "$heading"
done 3< headings
[ -z "$(kubectl get deployment legacy-billing --output jsonpath='{.spec.template.spec.initContainers}')" ] || fail "remove.yaml left something"
