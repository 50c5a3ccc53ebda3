"The project itself: order of the modules, exports in sync, README in sync, notebooks clean"
import ast, json, re, shutil, subprocess, sys
from pathlib import Path
import pytest
from readme import readme

root = Path(__file__).resolve().parents[1]
nbs = sorted(p for p in (root/'nbs').glob('[0-9]*.ipynb'))

def default_exp(nb):
    src = '\n'.join(''.join(c['source']) for c in json.loads(nb.read_text())['cells'] if c['cell_type']=='code')
    return re.search(r'^#\| ?default_exp (\S+)', src, re.M).group(1)

def imports(module):
    "Names of our modules that a module imports, anywhere in it"
    for n in ast.walk(ast.parse((root/f'ssd_fastai/{module}.py').read_text())):
        if isinstance(n, ast.ImportFrom) and (n.level or (n.module or '').startswith('ssd_fastai')):
            name = (n.module or '').removeprefix('ssd_fastai').lstrip('.')
            yield from [name] if name else [a.name for a in n.names]
        if isinstance(n, ast.Import): yield from (a.name.split('.')[1] for a in n.names if a.name.startswith('ssd_fastai.'))

def test_imports_point_to_smaller_numbers():
    order = [default_exp(nb) for nb in nbs]
    assert len(order)>=15
    for i,m in enumerate(order):
        for o in imports(m): assert o in order[:i], f'{nbs[i].name} imports {o}, which comes later'

def test_every_module_comes_from_a_notebook():
    made = {default_exp(nb) for nb in nbs} | {'all','__init__','_modidx'}
    assert {p.stem for p in (root/'ssd_fastai').glob('*.py')} == made

def test_exports_in_sync(tmp_path):
    shutil.copytree(root/'nbs', tmp_path/'nbs'); shutil.copytree(root/'ssd_fastai', tmp_path/'ssd_fastai', ignore=shutil.ignore_patterns('__pycache__'))
    for f in ('pyproject.toml','README.md','LICENSE'): shutil.copy(root/f, tmp_path)
    subprocess.run([Path(sys.executable).parent/'nbdev-export'], cwd=tmp_path, check=True, capture_output=True)
    for p in (root/'ssd_fastai').glob('*.py'): assert (tmp_path/'ssd_fastai'/p.name).read_text()==p.read_text(), f'{p.name} is not what the notebooks export: run nbdev-export'

def test_readme_in_sync(): assert (root/'README.md').read_text()==readme(), 'run python tests/readme.py'

@pytest.mark.parametrize('nb', sorted((root/'nbs').rglob('*.ipynb')), ids=lambda p:p.stem)
def test_notebook_is_presentable(nb):
    cells = json.loads(nb.read_text())['cells']
    code = [c for c in cells if c['cell_type']=='code']
    assert nb.stat().st_size<1_500_000, 'stored outputs are too large'
    assert not any(o['output_type']=='error' for c in code for o in c['outputs'])
    assert any(c['outputs'] for c in code), 'no stored outputs: nbdev-test --save'
    assert len(cells)<=70
