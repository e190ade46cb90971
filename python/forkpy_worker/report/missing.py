"""Which package brings a module that is not there.

Owns: the names that differ. Runs in: worker, after a cell that imported what is not there.
"""

from __future__ import annotations

import sys

NAMES = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "Crypto": "pycryptodome",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "git": "gitpython",
    "google.protobuf": "protobuf",
    "IPython": "ipython",
    "jwt": "pyjwt",
    "Levenshtein": "levenshtein",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "usb": "pyusb",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}


def hint(exception: ModuleNotFoundError) -> str | None:
    """Name the tool and the package; None where no package can help."""
    name = exception.name
    if type(name) is not str or not name:
        return None
    root = name.partition(".")[0]
    if root in sys.stdlib_module_names:
        if name == root:
            return f"{name} belongs to Python and is missing from this one; no package brings it"
        return None
    if root in sys.modules and name not in NAMES:
        # The package is there and has no such module.
        return None
    package = NAMES.get(name) or NAMES.get(root) or root
    return (
        f"{root} is not installed in the session's environment. The tool install_dependencies "
        f"installs it: packages [{package!r}]. Then run this again; no restart is needed."
    )
