"The project itself: order of the modules, exports in sync, README in sync, notebooks clean"
import ast, json, re, shutil, subprocess, sys
from pathlib import Path
import pytest
from readme import readme

root = Path(__file__).resolve().parents[1]
parts = ['data','ssd','train','published','use'] # reading order is import order; inside a part, by number
nbs = [nb for part in parts for nb in sorted((root/'nbs'/part).glob('*.ipynb'))]

def default_exp(nb):
    src = '\n'.join(''.join(c['source']) for c in json.loads(nb.read_text())['cells'] if c['cell_type']=='code')
    return re.search(r'^#\| ?default_exp (\S+)', src, re.M).group(1)

def module_file(module): return root/'ssd_fastai'/(module.replace('.','/')+'.py')

def imports(module):
    "Names of our modules that a module imports, anywhere in it"
    package = ['ssd_fastai',*module.split('.')[:-1]]
    for n in ast.walk(ast.parse(module_file(module).read_text())):
        if isinstance(n, ast.ImportFrom):
            base = package[:len(package)-n.level+1] if n.level else []
            name = '.'.join([*base,*([n.module] if n.module else [])])
            if name.startswith('ssd_fastai'): yield name.removeprefix('ssd_fastai').lstrip('.') or n.names[0].name
        if isinstance(n, ast.Import): yield from (a.name.removeprefix('ssd_fastai.') for a in n.names if a.name.startswith('ssd_fastai.'))

def test_imports_point_to_smaller_numbers():
    order = [default_exp(nb) for nb in nbs]
    assert len(order)>=25 and {nb.parent.name for nb in nbs}==set(parts)
    for i,m in enumerate(order):
        for o in imports(m): assert o in order[:i], f'{nbs[i]} imports {o}, which comes later'

@pytest.mark.parametrize('folder', [*parts,'course'])
def test_numbers_are_unique(folder):
    numbers = [re.match(r'(\d\d)_', nb.name).group(1) for nb in (root/'nbs'/folder).glob('*.ipynb')]
    assert len(set(numbers))==len(numbers)

def test_a_module_lives_in_the_folder_of_its_notebook():
    for nb in nbs:
        name = default_exp(nb)
        assert name in ('__main__', f'{nb.parent.name}.{nb.stem[3:]}'), f'{nb} exports {name}'

def test_every_module_comes_from_a_notebook():
    made = {module_file(default_exp(nb)) for nb in nbs}
    hand = {root/'ssd_fastai'/f for f in ('all.py','__init__.py','_modidx.py')}
    assert {p for p in (root/'ssd_fastai').rglob('*.py') if p.name!='__init__.py' or p in hand} == made|hand

def test_the_course_imports_what_people_type():
    for nb in (root/'nbs/course').glob('*.ipynb'):
        src = '\n'.join(''.join(c['source']) for c in json.loads(nb.read_text())['cells'] if c['cell_type']=='code')
        assert set(re.findall(r'ssd_fastai[\w.]*', src)) <= {'ssd_fastai.all'}, nb

def test_exports_in_sync(tmp_path):
    shutil.copytree(root/'nbs', tmp_path/'nbs')
    shutil.copytree(root/'ssd_fastai', tmp_path/'ssd_fastai', ignore=shutil.ignore_patterns('__pycache__'))
    for f in ('pyproject.toml','README.md','LICENSE'): shutil.copy(root/f, tmp_path)
    subprocess.run([Path(sys.executable).parent/'nbdev-export'], cwd=tmp_path, check=True, capture_output=True)
    for p in (root/'ssd_fastai').rglob('*.py'):
        same = (tmp_path/p.relative_to(root)).read_text()==p.read_text()
        assert same, f'{p.name} is not what the notebooks export: run nbdev-export'

def test_readme_in_sync(): assert (root/'README.md').read_text()==readme(), 'run python tests/readme.py'

@pytest.mark.parametrize('nb', sorted((root/'nbs').rglob('*.ipynb')), ids=lambda p:p.stem)
def test_notebook_is_presentable(nb):
    cells = json.loads(nb.read_text())['cells']
    code = [c for c in cells if c['cell_type']=='code']
    assert nb.stat().st_size<1_500_000, 'stored outputs are too large'
    assert not any(o['output_type']=='error' for c in code for o in c['outputs'])
    assert any(c['outputs'] for c in code), 'no stored outputs: nbdev-test --save'
    assert len(cells)<=70
