# The compiler as configure scripts want it: one word. Sourced by the recipes.
#
# Dates in sources are no error here; old sources call functions that they have not declared.
mkdir -p "$BUILD/tools"
wrap() {
    printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$ZIG" "$2" >"$BUILD/tools/$1.new"
    chmod +x "$BUILD/tools/$1.new"
    mv "$BUILD/tools/$1.new" "$BUILD/tools/$1"
}
wrap cc "cc -target $TARGET -Wno-date-time"
wrap c++ "c++ -target $TARGET -Wno-date-time"
wrap ar ar
wrap ranlib ranlib
export CC="$BUILD/tools/cc" CXX="$BUILD/tools/c++" AR="$BUILD/tools/ar" RANLIB="$BUILD/tools/ranlib"
export CFLAGS="-O2 -fPIC -fvisibility=hidden -Wno-implicit-function-declaration"
