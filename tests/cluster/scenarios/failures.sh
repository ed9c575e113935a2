# What the table "When it fails" of the tutorial says that one sees.
# shellcheck shell=bash

kubectl create secret generic bearerd --from-literal=client-secret=first
variant taken '  - target: { kind: Deployment }
    patch: |
      - op: add
        path: /spec/template/spec/initContainers/0
        value: { name: other, image: "'"$BEARERD_IMAGE"'", restartPolicy: Always, volumeMounts: [
          { name: bearerd-config, mountPath: /etc/bearerd }, { name: bearerd-secrets, mountPath: /run/secrets/bearerd }] }'
variant absent '  - target: { kind: Deployment }
    patch: |
      - op: replace
        path: /spec/template/spec/initContainers/0/image
        value: registry.example.com/absent:1'
variant untrusted '  - target: { kind: ConfigMap }
    patch: |
      - op: replace
        path: /data/bearerd.toml
        value: |'"$(sed '/^tls = /d; s/^/          /; s/^ *$//; 1s/^/\n/' deploy/kubernetes/base/bearerd.toml)"

ended_with() { bearerd_status "$(pod_of "$1")" .lastState.terminated.exitCode | grep -x "$2"; }
eventually 60 "another sidecar has the port: exit code 69" ended_with taken 69
described() { kubectl describe pod "$(pod_of taken)" | grep -A 12 'Last State' | grep '127.0.0.1:8080\|0.0.0.0:9180'; }
eventually 60 "the description names the address" described
unpulled() { bearerd_status "$(pod_of absent)" .state.waiting.reason | grep 'ErrImagePull\|ImagePullBackOff'; }
eventually 60 "an image that is not there: ErrImagePull" unpulled
untrusted() { kubectl logs "$(pod_of untrusted)" --container bearerd | grep -i 'not trusted\|UnknownIssuer\|unknown issuer'; }
eventually 60 "a private CA that bearerd was not told of: the log says so" untrusted
status_is "$(pod_of untrusted)" .restartCount 0 || fail "it restarted"
