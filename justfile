# Tasks of this repository: `just` lists them. Each is a line or two that can be typed by hand as well.

_default:
    @just --list --unsorted

# The demo: a config, an issuer, an API and bearerd between them
demo:
    cargo run -- demo

# What a change must pass; the same as CI
check:
    .ci/run

# Formatter and lints alone
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

# Spelling, style and words of the pages (needs Go)
prose:
    cargo test --locked --test deploy -- --include-ignored prose::

# Tests, all or those with a name: `just test headers::`
test *FILTER:
    cargo test --locked -- {{ FILTER }}

# Writes what is made from the code: schema, tables of the documents, man pages
bless:
    BLESS=1 cargo test --locked --lib config::schema
    BLESS=1 cargo test --locked --test config_reference
    BLESS=1 cargo test --locked --test deploy -- the_readme_has_every_value man_pages_are

# Licenses, sources and advisories of dependencies
deny:
    cargo deny --locked check

# Fuzzes a target of fuzz/fuzz_targets for some seconds
fuzz TARGET SECONDS="60":
    cargo +nightly fuzz run {{ TARGET }} -- -max_total_time={{ SECONDS }}

# Measures a release build beside other proxies: `just bench --rounds 1 --scale 0.2`
bench *OPTIONS:
    cargo build --release --locked
    bench/run {{ OPTIONS }}

# Load and random faults for 30 minutes: `just soak --minutes 5`
soak *OPTIONS:
    cargo build --release --locked
    bench/soak {{ OPTIONS }}

# The container image
image:
    docker build -f deploy/docker/Dockerfile -t bearerd:$(.ci/release version) .

# The deployment files and the tutorial in the cluster that kubectl points at, with kind's nodes
cluster *SCENARIOS:
    tests/cluster/images
    tests/cluster/run {{ SCENARIOS }}

# The Debian package of this machine's architecture, in target/
deb:
    cargo build --release --locked
    deploy/debian/build target/release/bearerd target
