#!/bin/sh
# clang, which OAR's Makefile wants for one small BPF program. Unpacked it would be a quarter of the image: it is kept
# compressed, and unpacked by whoever calls it. Its packages have been downloaded.
set -e
PACKED=/usr/local/lib/oardocker/clang.tar.zst
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
mkdir -p "${PACKED%/*}"
# It is one of the packages that dpkg is about to install.
dpkg-deb -x /var/cache/apt/archives/zstd_*.deb "$WORK/zstd"
# The program, its libraries, and the headers of its own: what it needs to compile C for another machine.
for name in clang libclang-cpp libclang-common libllvm libz3; do
    for deb in /var/cache/apt/archives/"$name"*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -C "$WORK" -x
    done
done
cd "$WORK"
find usr/lib -path '*/bin/clang*' -o -name '*.so.*' -o -path '*/lib/clang/*/include/*.h' -not -path '*/include/*/*' |
    tar -c --no-recursion -T - | zstd/usr/bin/zstd -q -T0 -6 -o "$PACKED"

cat > /usr/local/bin/clang <<'CLANG'
#!/bin/sh
# Unpacks clang, calls it, and throws it away; OARDOCKER_CLANG is a directory in which it stays, for who calls it again.
set -e
dir=$OARDOCKER_CLANG
if [ -n "$dir" ]; then
    exec 9> "$dir.lock"
    flock 9
else
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
fi
if [ ! -e "$dir/whole" ]; then
    mkdir -p "$dir"
    tar -C "$dir" --zstd -xf /usr/local/lib/oardocker/clang.tar.zst
    touch "$dir/whole"
fi
exec 9>&-
LD_LIBRARY_PATH=$(echo "$dir"/usr/lib/*-linux-gnu) "$dir"/usr/lib/llvm-*/bin/clang "$@"
CLANG
chmod 755 /usr/local/bin/clang
