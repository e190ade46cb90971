# Builds the C libraries that CPython's modules need, as archives for one target. `floor/mod.rs` runs it.
#
# Given: ZIG, TARGET (x86_64-linux-gnu.2.28), HOST (x86_64-linux-gnu), SOURCES (one folder a package), BUILD, PREFIX, JOBS, RECIPES.
set -eu
. "$RECIPES/tools.sh"
mkdir -p "$PREFIX/lib" "$PREFIX/include" "$BUILD"

# One library: once built, its mark stays. What comes out is looked for: a step that fails must not pass.
library() {
    name=$1 source=$2 made=$PREFIX/lib/$3
    [ -e "$PREFIX/$name.done" ] && [ -e "$made" ] && return 0
    echo "building $name"
    rm -rf "${BUILD:?}/$name"
    cp -a "$SOURCES/$source" "$BUILD/$name"
    # In a condition `set -e` would be off, and each step but the last could fail.
    set +e
    (
        set -e
        cd "$BUILD/$name"
        are_made
        "build_$name"
        [ -e "$made" ]
    ) >"$BUILD/$name.log" 2>&1
    status=$?
    set -e
    if [ "$status" != 0 ]; then
        tail -n 20 "$BUILD/$name.log" >&2
        echo "building $name failed; all of it is in $BUILD/$name.log" >&2
        return 1
    fi
    touch "$PREFIX/$name.done"
}

# What autoconf has made is newer than what it was made from, also where a patch of Debian's came later: nothing is made again, by
# programs that are not here.
are_made() {
    for made_by_autoconf in aclocal.m4 configure config.h.in Makefile.in; do
        find . -name "$made_by_autoconf" -exec touch {} +
    done
}

build_zlib() {
    sh ./configure --static --prefix="$PREFIX"
    make -j"$JOBS" libz.a
    cp libz.a "$PREFIX/lib"
    cp zlib.h zconf.h "$PREFIX/include"
}

build_bzip2() {
    make -j"$JOBS" libbz2.a CC="$CC" AR="$AR" RANLIB="$RANLIB" CFLAGS="$CFLAGS -D_FILE_OFFSET_BITS=64"
    cp libbz2.a "$PREFIX/lib"
    cp bzlib.h "$PREFIX/include"
}

build_xz() {
    ./configure --host="$HOST" --disable-shared --with-pic --disable-xz --disable-xzdec --disable-lzmadec --disable-lzmainfo \
        --disable-lzma-links --disable-scripts --disable-doc --disable-nls --prefix="$PREFIX"
    make -j"$JOBS" install
}

build_ffi() {
    ./configure --host="$HOST" --disable-shared --with-pic --disable-docs --disable-multi-os-directory --prefix="$PREFIX"
    make -j"$JOBS" install
}

build_uuid() {
    ./configure --host="$HOST" --disable-all-programs --enable-libuuid --disable-shared --with-pic --without-python \
        --without-ncurses --without-tinfo --disable-nls --disable-bash-completion --prefix="$PREFIX"
    make -j"$JOBS" libuuid.la
    cp .libs/libuuid.a "$PREFIX/lib"
    # CPython looks for the one, programs for the other.
    mkdir -p "$PREFIX/include/uuid"
    cp libuuid/src/uuid.h "$PREFIX/include/uuid"
    cp libuuid/src/uuid.h "$PREFIX/include"
}

build_sqlite() {
    ./configure --host="$HOST" --disable-shared --with-pic --disable-readline --disable-tcl --enable-fts5 --prefix="$PREFIX"
    # It runs here and writes the parser; the makefile would build it for the target.
    cc -O1 -o lemon tool/lemon.c
    cp tool/lempar.c .
    make -j"$JOBS" libsqlite3.la
    cp .libs/libsqlite3.a "$PREFIX/lib"
    cp sqlite3.h "$PREFIX/include"
    [ ! -e src/sqlite3ext.h ] || cp src/sqlite3ext.h "$PREFIX/include"
}

build_openssl() {
    ./Configure "linux-${HOST%%-*}" no-shared no-tests no-ssl3 no-comp no-zlib no-legacy no-engine no-dso no-async \
        -fPIC -fvisibility=hidden --prefix="$PREFIX" --libdir=lib --openssldir=/etc/ssl
    make -j"$JOBS" build_generated
    make -j"$JOBS" libcrypto.a libssl.a
    cp libcrypto.a libssl.a "$PREFIX/lib"
    cp -r include/openssl "$PREFIX/include"
}

library zlib zlib libz.a
library bzip2 bzip2 libbz2.a
library xz xz-utils liblzma.a
library ffi libffi libffi.a
library uuid util-linux libuuid.a
library sqlite sqlite3 libsqlite3.a
library openssl openssl libssl.a
