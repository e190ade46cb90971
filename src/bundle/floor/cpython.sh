# Builds CPython as an archive, all of its modules in it, for one target. `floor/mod.rs` runs it after `libraries.sh`.
#
# Given: what libraries.sh is given, and PYTHON_SOURCE, VERSION (3.11), INSTALLED, and BUILD_PYTHON (an interpreter of the same
# version on this machine) when the target's programs do not run here.
set -eu
. "$RECIPES/tools.sh"
[ ! -e "$INSTALLED/done" ] || exit 0
work=$BUILD/cpython-$VERSION
rm -rf "$work"
mkdir -p "$work"
cd "$work"
# By its path: configure takes the plain name for that of another machine's tools; it reads the files of all.
READELF=$(command -v readelf)
export READELF PKG_CONFIG=false MODULE_BUILDTYPE=static
export CFLAGS="-fPIC -Wno-implicit-function-declaration" CPPFLAGS="-I$PREFIX/include" LDFLAGS="-L$PREFIX/lib"
library() {
    eval "export ${1}_CFLAGS=\"-I$PREFIX/include\" ${1}_LIBS=\"-L$PREFIX/lib $2\""
}
library LIBUUID -luuid
library LIBSQLITE3 "-lsqlite3 -lm"
library ZLIB -lz
library BZIP2 -lbz2
library LIBLZMA -llzma
library LIBFFI -lffi

# What a terminal or a desktop needs is left out, and the tests.
echo "configuring CPython $VERSION"
cross=
[ -z "${BUILD_PYTHON:-}" ] || cross="--host=$HOST --build=$(uname -m)-linux-gnu --with-build-python=$BUILD_PYTHON
    ac_cv_file__dev_ptmx=yes ac_cv_file__dev_ptc=no ac_cv_buggy_getaddrinfo=no"
# shellcheck disable=SC2086
"$PYTHON_SOURCE/configure" $cross --prefix="$INSTALLED" --disable-shared --without-readline --with-openssl="$PREFIX" \
    --disable-test-modules --with-ensurepip=no --with-dbmliborder= py_cv_module__tkinter=n/a py_cv_module_nis=n/a \
    py_cv_module__crypt=disabled py_cv_module_readline=n/a py_cv_module__gdbm=n/a py_cv_module__dbm=n/a \
    py_cv_module__curses=n/a py_cv_module__curses_panel=n/a >configure.log 2>&1 || {
    tail -n 20 configure.log >&2
    exit 1
}

# From 3.12 on the configuration itself makes modules part of the interpreter. For 3.11 they are named.
if [ "$VERSION" = 3.11 ]; then
    grep -vE '^#|xxlimited|xxsubtype|^$' Modules/Setup.stdlib | sed '/^\*shared\*/,$d' >Modules/Setup.local
    echo "_ctypes _ctypes/_ctypes.c _ctypes/callbacks.c _ctypes/callproc.c _ctypes/stgdict.c _ctypes/cfield.c" \
        "-I$PREFIX/include -DHAVE_FFI_PREP_CIF_VAR -DHAVE_FFI_PREP_CLOSURE_LOC -DHAVE_FFI_CLOSURE_ALLOC" \
        "-L$PREFIX/lib -lffi" >>Modules/Setup.local
    sh "$PYTHON_SOURCE/Modules/makesetup" -c "$PYTHON_SOURCE/Modules/config.c.in" -s Modules Modules/Setup.local \
        Modules/Setup.bootstrap "$PYTHON_SOURCE/Modules/Setup" >/dev/null
    mv config.c Modules/
fi
echo "building CPython $VERSION"
make -j"$JOBS" "libpython$VERSION.a" python >make.log 2>&1 || {
    tail -n 20 make.log >&2
    exit 1
}
make install ENSUREPIP=no COMPILEALL_OPTS="-x .*" >install.log 2>&1 || {
    tail -n 20 install.log >&2
    exit 1
}
# Archives that CPython builds for itself, and that its own archive only refers to.
find . -name 'libexpat.a' -o -name 'libmpdec.a' -o -name 'libHacl_*.a' | while read -r archive; do
    cp "$archive" "$INSTALLED/lib"
done
touch "$INSTALLED/done"
