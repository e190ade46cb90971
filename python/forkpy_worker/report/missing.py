"""What to do about a module that is not there: which package brings it, or what was meant.

Owns: the names that are known. A name that was not checked is never told to be installed: any person
can publish a package under a name that people mistype.
Runs in: worker, after a cell that imported what is not there.
"""

from __future__ import annotations

import os
import sys

from forkpy_worker.base import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Modules whose package has another name.
NAMES = {
    "airflow": "apache-airflow",
    "attr": "attrs",
    "Bio": "biopython",
    "bs4": "beautifulsoup4",
    "Crypto": "pycryptodome",
    "cv2": "opencv-python-headless",
    "Cython": "cython",
    "dateutil": "python-dateutil",
    "dns": "dnspython",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "pymupdf",
    "git": "gitpython",
    "github": "pygithub",
    "google.protobuf": "protobuf",
    "googleapiclient": "google-api-python-client",
    "grpc": "grpcio",
    "IPython": "ipython",
    "jwt": "pyjwt",
    "Levenshtein": "levenshtein",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "MySQLdb": "mysqlclient",
    "nacl": "pynacl",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "pkg_resources": "setuptools",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "PyPDF2": "pypdf2",
    "pywt": "pywavelets",
    "ruamel": "ruamel.yaml",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "shapefile": "pyshp",
    "sklearn": "scikit-learn",
    "slugify": "python-slugify",
    "umap": "umap-learn",
    "usb": "pyusb",
    "websocket": "websocket-client",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
# Modules whose package has the same name, as far as underscores and hyphens go.
_SAME = """
aiofiles aiohttp altair anthropic anyio apscheduler arviz astropy asyncpg attrs autogluon
black bokeh boto3 botocore bottle catboost celery chardet charset_normalizer click
cloudpickle colorama contextily cryptography curl_cffi cvxpy dash dask datasets datashader
diffusers distributed django docker duckdb einops elasticsearch evaluate faker fastapi
fastparquet feedparser fiona flask flax folium fsspec gensim geopandas geopy gradio
graphviz great_tables gymnasium h5py holoviews httpx huggingface_hub hvplot hypothesis
imageio ipykernel ipywidgets jax jedi jinja2 joblib jsonschema kaleido keras langchain
lightgbm lightning litellm llvmlite loguru lxml markdown marshmallow matplotlib mlflow
mpmath msgpack mypy nbclient nbconvert nbformat nest_asyncio networkx nibabel nltk
notebook numba numexpr numpy openai openpyxl optuna orjson osmnx pandas pandera papermill
paramiko parso patsy peewee peft pendulum pikepdf pint plotly plotnine polars prophet
psutil pyarrow pycountry pydantic pydeck pydot pyecharts pygments pylint pymongo pymysql
pyodbc pypdf pyproj pyspark pytesseract pytest pytz pyvis pyvista qrcode rapidfuzz
rasterio redis regex reportlab requests rich scipy scrapy seaborn selenium
sentence_transformers sentencepiece setuptools shap shapely simplejson spacy sqlalchemy
sqlglot starlette statsmodels streamlit sympy tables tabulate tenacity tensorboard
tensorflow textblob threadpoolctl tiktoken timm tokenizers toml tomli toolz torch
torchaudio torchmetrics torchvision tornado tqdm transformers typer typing_extensions
tzdata tzlocal ujson urllib3 uvicorn vega_datasets wandb websockets wordcloud xarray
xgboost xlrd xlsxwriter xmltodict yfinance zarr zstandard
"""
SAME = frozenset(_SAME.split())
# The workspace is looked through for a file of that name, no further than this.
MAX_ENTRIES = 5000
# Folders that hold no module of the user's own.
_NOT_SEARCHED = frozenset(("__pycache__", "node_modules", "site-packages"))
_CLOSE = 0.8


def hint(exception: ModuleNotFoundError) -> str | None:
    """Say what brings a module, or what was meant; None where nothing can be said."""
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
        return _submodule(name) or _in_workspace(name, sys.modules[root])
    file = _in_workspace(name, sys.modules.get(root))
    if file is not None:
        return file
    package = package_of(name)
    if package is not None:
        return (
            f"{root} is not installed in the session's environment. The tool install_dependencies "
            f"installs it: packages [{package!r}]. Then run this again; no restart is needed."
        )
    return _meant(root) or (
        f"{root} is not installed in the session's environment, and forkpy does not know which "
        "package brings it. Look that up, since any person can publish a package of a likely name; "
        "the tool install_dependencies then installs it."
    )


def package_of(name: str) -> str | None:
    """Name the package that is known to bring a module."""
    root = name.partition(".")[0]
    found = NAMES.get(name) or NAMES.get(root)
    return found or (root.replace("_", "-") if root in SAME else None)


def _meant(root: str) -> str | None:
    """Find the name that was meant, among those that are there and those that are known."""
    there = _importable()
    folded = {name.lower(): name for name in (*SAME, *NAMES, *there) if "." not in name}
    close = _closest(root, folded)
    if close is None:
        return None
    if close in there:
        return f"there is no module {root!r}; {close!r} is there: was that meant?"
    package = package_of(close)
    return (
        f"there is no module {root!r}. If {close!r} was meant: it is not installed, and the tool "
        f"install_dependencies installs it: packages [{package!r}]."
    )


def _closest(name: str, folded: dict[str, str]) -> str | None:
    from difflib import get_close_matches

    found = get_close_matches(name.lower(), folded, 1, _CLOSE)
    return folded[found[0]] if found else None


def _submodule(name: str) -> str | None:
    """Find what was meant among the modules of a package."""
    import pkgutil

    parent, _, last = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None)
    if path is None:
        return None
    close = _closest(last, {found.name.lower(): found.name for found in pkgutil.iter_modules(path)})
    return None if close is None else f"{parent} has no {last!r}; was {parent}.{close} meant?"


def _importable() -> set[str]:
    """Name the modules that can be imported, and no file is opened for it."""
    import pkgutil

    found = {name for name in sys.stdlib_module_names if not name.startswith("_")}
    found.update(module.name for module in pkgutil.iter_modules())
    return found


def _in_workspace(name: str, loaded: object = None) -> str | None:
    """Find a module that is a file of the workspace, in a folder that is not searched.

    `loaded` is the package of that name which is there, and which has no such module.
    """
    root = name.partition(".")[0]
    for folder, folders, files in _folders(place.workspace):
        there = _module_file(
            folder, root if loaded is None else name.replace(".", "/"), folders, files
        )
        if there is None or (loaded is not None and folder in _parents(loaded)):
            continue
        where = os.path.relpath(folder, place.workspace)
        if there.endswith(".ipynb"):
            return (
                f"{os.path.normpath(os.path.join(where, there))} of the workspace is a notebook and no module. "
                "The tool run_notebook runs it in this session; what it defines is then there, without an import."
            )
        if loaded is not None:
            return (
                f"{there} is a file of the workspace, in {where!r}, but the {root!r} that is loaded is another one, "
                f"from {_parents(loaded)[0]!r}. Put the folder first and restart the session: "
                f"import sys; sys.path.insert(0, {os.path.abspath(folder)!r})."
            )
        package = _package(folder)
        if package is not None:
            return f"{there} is a file of the workspace, in the package {package}: from {package} import {root}"
        return (
            f"{there} is a file of the workspace, in {where!r}, where modules are not looked for. "
            f"Add that folder: import sys; sys.path.insert(0, {os.path.abspath(folder)!r})."
        )
    return None


def _package(folder: str) -> str | None:
    """Name the package that a folder is, where it can be imported."""
    parts: list[str] = []
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, last = os.path.split(folder)
        parts.insert(0, last)
    return ".".join(parts) if parts and folder in sys.path else None


def _folders(workspace: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Go through the workspace, as far as it may hold modules of its user."""
    if not os.path.isdir(workspace):
        return
    looked_at = 0
    for folder, folders, files in os.walk(workspace):
        if "pyvenv.cfg" in files:
            folders.clear()
            continue
        folders[:] = [
            name for name in sorted(folders) if name[:1] != "." and name not in _NOT_SEARCHED
        ]
        yield folder, folders, files
        looked_at += len(folders) + len(files)
        if looked_at > MAX_ENTRIES:
            return


def _module_file(folder: str, path: str, folders: list[str], files: list[str]) -> str | None:
    """Name what `import` would take from this folder, or would if it were no notebook; a `/` marks a package."""
    first, _, rest = path.partition("/")
    if rest:
        if first not in folders:
            return None
        folder, path = os.path.join(folder, first), rest
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return None
        folders = [entry.name for entry in entries if entry.is_dir()]
        files = [entry.name for entry in entries if entry.is_file()]
        found = _module_file(folder, path, folders, files)
        return None if found is None else f"{first}/{found}"
    from importlib.machinery import all_suffixes

    for suffix in (*all_suffixes(), ".ipynb"):
        if path + suffix in files:
            return path + suffix
    return f"{path}/" if path in folders and _has_code(os.path.join(folder, path)) else None


def _parents(package: object) -> list[str]:
    """Name the folders that a package was looked for in, its own file's first."""
    own = [os.path.dirname(entry) for entry in getattr(package, "__path__", ())]
    return own or [os.path.dirname(getattr(package, "__file__", None) or "?")]


def _has_code(folder: str) -> bool:
    """Whether a folder is a package, or one of a package's folders."""
    looked_at = 0
    for _folder, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[:1] != "." and name not in _NOT_SEARCHED]
        if any(name.endswith(".py") for name in files):
            return True
        looked_at += len(folders) + len(files)
        if looked_at > MAX_ENTRIES // 10:
            return False
    return False
