# make demo   a certificate, end to end, before your eyes        make test   everything that is checked
# make up     the demo's world, kept for playing                 make check  the quick part of it
# make down   end that world                                     make crds   write crds/ anew
# make annotations, make metrics, make troubleshooting  write docs/annotations.md, docs/metrics.md, docs/troubleshooting.md anew
# make chart  what is written from the chart                     make image  the image, as target/image/evercert.tar
# make build  the program, optimised
# make simulate  years of thousands of certificates, and their load week by week (SEED, CERTIFICATES, DAYS)

.PHONY: help demo test check crds chart annotations metrics troubleshooting up down build image world simulate

help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST))

test:
	@.ci/parts setup fmt build level +tools +image clippy docs generated +world +plane unit chart +demo stories

check:
	@.ci/parts fmt clippy build generated unit

demo:
	@.ci/parts setup programs tools image demo

up: world
	@target/debug/evercert-demo up

down:
	@if [ -x target/debug/evercert-demo ]; then target/debug/evercert-demo down; else echo "There is no world."; fi

world:
	@.ci/parts setup programs tools image

crds:
	@cargo run --quiet --locked -p evercert -- crds --output crds
	@cargo run --quiet --locked -p evercert -- crds --output charts/evercert/files/crds
	@git --no-pager diff --stat -- crds charts

chart:
	@cargo build --quiet --locked --workspace
	@target/debug/evercert-e2e chart
	@git --no-pager diff --stat -- charts deploy e2e/tests/chart

annotations metrics troubleshooting:
	@cargo run --quiet --locked -p evercert -- $@ --output docs/$@.md
	@git --no-pager diff --stat -- docs/$@.md

image:
	@sh e2e/image.sh

build:
	cargo build --release --locked -p evercert

simulate:
	CERTIFICATES=$(or $(CERTIFICATES),10000) DAYS=$(or $(DAYS),1461) SEED=$(or $(SEED),1) PLOT=1 \
		cargo test --quiet --release --locked -p evercert-core --test simulate -- --nocapture two_years
