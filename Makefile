# `make demo` shows what this is; `make test` runs all tests. Both want root on a Debian 12 (or later) with Rust's cargo.
# `make unit` runs what needs neither root nor an engine, in seconds.

# An index that cannot be had is an error, with its address, and not a package that is missing later.
APT_UPDATE = apt-get -q -o APT::Update::Error-Mode=any -o Acquire::Retries=3 update

PACKAGES = containerd runc nftables mmdebstrap protobuf-compiler docker-registry zsh fish iproute2 git make gcc \
           buildah skopeo umoci busybox-static libcap2-bin attr xz-utils bzip2 zstd \
           libc6-dev ca-certificates python3 python3-venv util-linux hostname debian-archive-keyring apt-utils dpkg-dev \
           docker.io podman netavark iptables procps strace curl xvfb gpg gpgv gpg-agent chromium
OAR = target/oar.tar.gz
OAR3 = target/oar3.tar
BINARY = target/debug/oardocker

.PHONY: all deps demo test unit soak fuzz vm lint bench clean build

all: build

build: | deps
	cargo build

# What is missing from Debian's packages, OAR's sources from the Debian source package, and a tree of OAR 3.
deps: $(OAR) $(OAR3)
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	    echo "Installing: "$$missing; \
	    $(APT_UPDATE) && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; \
	fi
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.88 or later (https://rustup.rs)" >&2; exit 1; }

$(OAR):
	tests/fetch-oar $@

# Where it cannot be had, the tests of OAR 3 fail, and the others run.
$(OAR3):
	-tests/fetch-oar3 $@

demo: build
	tests/demo $(BINARY) $(OAR)

test: build
	cargo test --no-fail-fast -- --include-ignored

# The command line is in it, but for its shells.
unit:
	cargo test --lib
	cargo test --test main -- cli:: contract_of_the_fake --skip completion

# Every command killed at 200 random instants on each engine; OARDOCKER_TEST_SEED=N repeats a run.
soak: build
	OARDOCKER_TEST_KILLS=$${OARDOCKER_TEST_KILLS:-200} cargo test --test main killed_at_random -- --nocapture --test-threads=1

# Hostile Dockerfiles, ignore files and archives, ten minutes each; OARDOCKER_TEST_SEED=N repeats a run.
fuzz:
	OARDOCKER_TEST_FUZZ=$${OARDOCKER_TEST_FUZZ:-600} cargo test --lib fuzz -- --nocapture

# A cluster of an ordinary user, in a virtual machine: minutes with KVM, an hour where QEMU emulates the processor.
vm: build
	tests/in-vm $(BINARY) $(OAR)

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	tests/licences

bench: build
	cargo build --release
	tests/bench target/release/oardocker $(OAR)

# Ends the tests' containerd too; its images are below target/.
clean:
	-test -x $(BINARY) && tests/forget $(BINARY)
	cargo clean
