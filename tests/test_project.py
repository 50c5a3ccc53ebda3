"The project itself: order of the modules, exports in sync, README in sync, notebooks clean"
import ast, builtins, importlib, inspect, json, re, shutil, subprocess, sys, tokenize
from dataclasses import fields, is_dataclass
from pathlib import Path
try: import tomllib
except ImportError: import tomli as tomllib # Python 3.10: pytest brings it
import fastai.vision.all as vision
import pytest
from fastai.callback.core import event
from fastcore.docments import docments
from setuptools import find_packages
import links
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
        if isinstance(n, ast.Import):
            yield from (a.name.removeprefix('ssd_fastai.') for a in n.names if a.name.startswith('ssd_fastai.'))

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

@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    "A copy of the tree after `nbdev-prepare` without its tests, which run every notebook"
    to = tmp_path_factory.mktemp('tree')
    for f in ('nbs','ssd_fastai'): shutil.copytree(root/f, to/f, ignore=shutil.ignore_patterns('__pycache__','.*'))
    for f in ('pyproject.toml','README.md','LICENSE'): shutil.copy(root/f, to)
    (to/'nbs/index.ipynb').touch() # newer than README.md: nbdev would write that again
    prepare = '''import nbdev.test
from nbdev.quarto import prepare
nbdev.test.nbdev_test.__wrapped__ = print
prepare.__wrapped__()'''
    subprocess.run([sys.executable,'-c',prepare], cwd=to, check=True, capture_output=True)
    return to

def test_exports_in_sync(prepared):
    for p in (root/'ssd_fastai').rglob('*.py'):
        same = (prepared/p.relative_to(root)).read_text()==p.read_text()
        assert same, f'{p.name} is not what the notebooks export: run nbdev-export'

def test_prepare_leaves_the_tree_clean(prepared):
    for p in [root/'README.md', *(root/'nbs').rglob('*.ipynb')]:
        same = (prepared/p.relative_to(root)).read_text()==p.read_text()
        assert same, f'nbdev-prepare changes {p.relative_to(root)}: run nbdev-clean'

def test_readme_in_sync(): assert (root/'README.md').read_text()==readme(), 'run python tests/readme.py'

@pytest.mark.parametrize('nb', links.reading_order(), ids=lambda p:p.stem)
def test_notebook_links_to_its_neighbors(nb):
    assert json.loads(links.with_nav(nb))==json.loads(nb.read_text()), 'run python tests/links.py'

def test_sidebar_in_sync(): assert (root/'nbs/sidebar.yml').read_text()==links.sidebar(), 'run python tests/links.py'

def test_reading_order_is_complete(): assert set(links.reading_order())==set((root/'nbs').rglob('*.ipynb'))

def markdown():
    "Everything that people read: {file: text}"
    res = {root/f:(root/f).read_text() for f in ('README.md','CONTRIBUTING.md','CHANGELOG.md')}
    for nb in links.reading_order():
        cells = [c for c in json.loads(nb.read_text())['cells'] if c['cell_type']=='markdown']
        res[nb] = '\n\n'.join(''.join(c['source']) for c in cells)
    return res

@pytest.mark.parametrize('file', markdown(), ids=lambda p:p.stem)
def test_links_point_to_files(file): assert links.broken_links(markdown()[file], file.parent)==[]

@pytest.mark.parametrize('file', markdown(), ids=lambda p:p.stem)
def test_named_notebooks_exist(file):
    "`ssd/01_match` in the prose, and Colab's addresses"
    text = markdown()[file]
    named = re.findall(rf'(?:{"|".join([*parts,"course"])})/\d\d_\w+', text)
    assert [o for o in named if not (root/f'nbs/{o}.ipynb').exists()]==[]

def test_a_broken_link_is_seen(tmp_path):
    (tmp_path/'there.ipynb').touch()
    text = '[a](there.ipynb#part) [b](gone.ipynb) [c](https://x.y/z) [d](#here)'
    assert links.broken_links(text, tmp_path)==['gone.ipynb']

@pytest.mark.parametrize('nb', sorted((root/'nbs').rglob('*.ipynb')), ids=lambda p:p.stem)
def test_notebook_is_presentable(nb):
    cells = json.loads(nb.read_text())['cells']
    code = [c for c in cells if c['cell_type']=='code']
    assert nb.stat().st_size<1_500_000, 'stored outputs are too large'
    assert not any(o['output_type']=='error' for c in code for o in c['outputs'])
    assert not [c['id'] for c in code if '\\r' in json.dumps(c['outputs'])], 'a progress bar: run it in Jupyter'
    assert not [c['id'] for c in code if f'{Path.home()}/' in json.dumps(c['outputs'])], 'a path of this machine'
    assert any(c['outputs'] for c in code), 'no stored outputs: nbdev-test --save'
    assert len(cells)<=60, 'a notebook past sixty cells is two ideas'

reference = ('10_settings','11_main') # settings of the course and the program's entry: no lessons
lessons = [nb for nb in sorted((root/'nbs').rglob('*.ipynb')) if nb.stem not in (*reference,'index')]

@pytest.mark.parametrize('nb', lessons, ids=lambda p:p.stem)
def test_lesson_is_one(nb):
    "What the reader will be able to do, a picture, questions that a cell checks, an exercise that is solved, links"
    cells = json.loads(nb.read_text())['cells']
    text = [''.join(c['source']) for c in cells]
    assert '**After this lesson you can**' in text[0]
    shown = [o.get('data',{}) for c in cells if c['cell_type']=='code' for o in c['outputs']]
    assert any(k.startswith('image/') for o in shown for k in o) or any('](images/' in t or '/images/' in t for t in text)
    asked = next(i for i,t in enumerate(text) if t.startswith('## Questions'))
    n = len(re.findall(r'^\d\. ', text[asked], flags=re.M))
    assert 2<=n<=5 and text[asked].count('<summary>Answer</summary>')==n
    check = text[asked+1]
    assert cells[asked+1]['cell_type']=='code' and re.search(r'\b(assert|test_\w+)\b', check), 'nothing checks the answers'
    assert [k for k in range(1,n+1) if not re.search(rf'#[^\n]*\b{k}\b', check)]==[], 'an answer that no line checks'
    task = next(i for i,t in enumerate(text) if t.startswith('## Exercise'))
    assert any(c['cell_type']=='code' and c['outputs'] for c in cells[task+1:]), 'the exercise is not solved'
    assert 'What happened</summary>' in ''.join(text[task:]) and '>WHAT' not in ''.join(text)
    own = [t for c,t in zip(cells,text) if c['cell_type']=='markdown' and c.get('id')!='nav']
    assert re.search(r'\]\((\.\./\w+/)?\d\d_\w+\.ipynb', ''.join(own)), 'no link to another lesson'

def test_export_cells_are_short():
    "14 lines on average that are neither blank nor a directive"
    cells = [''.join(c['source']).split('\n') for nb in nbs for c in json.loads(nb.read_text())['cells']]
    exported = [c for c in cells if c[0].startswith('#| export')]
    n = [sum(bool(l.strip()) and not l.startswith('#|') for l in c) for c in exported]
    assert len(n)>500 and sum(n)/len(n)<=14

IMPORTS = (ast.Import, ast.ImportFrom)

def mixed(cell):
    "Does a cell import something, and do something else too? To build the docs, nbdev runs such cells and no others"
    code = ''.join(cell['source'])
    if cell['cell_type']!='code' or re.match(r'\s*#\|\s*(export|hide|eval: *false)', code): return False
    tree = ast.parse(re.sub(r'^[%!].*', '', code, flags=re.M))
    return any(isinstance(n, IMPORTS) for n in ast.walk(tree)) and not all(isinstance(n, IMPORTS) for n in tree.body)

@pytest.mark.parametrize('nb', nbs, ids=lambda p:p.stem)
def test_imports_have_cells_of_their_own(nb):
    assert [c['id'] for c in json.loads(nb.read_text())['cells'] if mixed(c)]==[]

# What people type

def typed():
    "The names that all.py imports from us"
    tree = ast.parse((root/'ssd_fastai/all.py').read_text())
    froms = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module.startswith('ssd_fastai')]
    return [a.name for n in froms for a in n.names]

def test_all_is_a_list_by_hand():
    assert 60<=len(typed())<=110 and '*' not in typed() and len(set(typed()))==len(typed())

@pytest.mark.parametrize('name', typed())
def test_typed_name_is_documented(name):
    "A docstring of its own; a list or dictionary is explained beside its name in a notebook"
    o = getattr(importlib.import_module('ssd_fastai.all'), name)
    if callable(o): assert o.__dict__.get('__doc__') or not inspect.isclass(o) and o.__doc__
    else: assert any(f'`{name}`' in text for text in markdown().values())

@pytest.mark.parametrize('name', typed())
def test_typed_name_shadows_nothing(name): assert not hasattr(vision, name) and not hasattr(builtins, name)

def modules():
    names = [default_exp(nb) for nb in nbs]
    return [importlib.import_module(f'ssd_fastai.{n}') for n in names if n!='__main__']

def patched(m):
    "Public methods that a module adds to classes: (name, function)"
    for n in ast.parse(inspect.getsource(m)).body:
        names = [ast.unparse(d) for d in getattr(n, 'decorator_list', [])]
        if any(o=='patch' or o.startswith('patch(') for o in names) and n.name[0]!='_':
            to = eval(ast.unparse(n.args.args[0].annotation), vars(m))
            for c in (to if isinstance(to, tuple) else [to]): yield f'{c.__name__}.{n.name}',c.__dict__[n.name]

def methods(c):
    "Public methods that a class defines itself, but for those whose signature fastai, torch or Python gives"
    yield c.__name__,(c if is_dataclass(c) else c.__dict__.get('__init__'))
    for k,f in vars(c).items():
        given = any(hasattr(b, k) for b in [event,*c.__mro__[1:]] if not b.__module__.startswith('ssd_fastai'))
        if k[0]!='_' and (k=='forward' or not given): yield f'{c.__name__}.{k}',f

def public():
    "(module, name, function) of all that is public"
    for m in modules():
        ours = [getattr(m,k) for k in m.__all__ if getattr(getattr(m,k), '__module__', None)==m.__name__]
        found = [(f.__name__,f) for f in ours if inspect.isfunction(f)]
        for c in ours: found += methods(c) if inspect.isclass(c) else []
        for k,f in [*found,*patched(m)]:
            f = f.fget if isinstance(f, property) else getattr(f, '__func__', f)
            if inspect.isfunction(f) or is_dataclass(f): yield m.__name__,k,inspect.unwrap(f)

def parameters(f):
    "Names of what a function takes, without `self` and without `*args` and `**kwargs`"
    if is_dataclass(f): return [o.name for o in fields(f)]
    c = f.__code__
    return [o for o in c.co_varnames[:c.co_argcount+c.co_kwonlyargcount] if o not in ('self','cls')]

def without_docments():
    return [f'{m}.{k}: {p}' for m,k,f in public() for p in parameters(f) if not docments(f).get(p)]

def test_public_parameters_have_docments():
    assert sum(len(parameters(f)) for *_,f in public())>300
    assert without_docments()==[]

def has_docstring(m, name, f):
    "Also of the method that it overrides; `__init__` and `forward` need none"
    if f.__name__ in ('__init__','forward') or f.__doc__: return True
    c = getattr(importlib.import_module(m), name.split('.')[0], None)
    return inspect.isclass(c) and any(getattr(getattr(b, f.__name__, None), '__doc__', None) for b in c.__mro__[1:])

def test_public_functions_have_docstrings():
    assert [f'{m}.{k}' for m,k,f in public() if not has_docstring(m, k, f)]==[]

# Lines

def lines():
    "(file, number, line) of what people wrote"
    for p in [*(root/'ssd_fastai').rglob('*.py'), *(root/'tests').rglob('*.py')]:
        if p.name!='_modidx.py':
            for i,l in enumerate(p.read_text().splitlines()): yield p,i+1,l

def semicolons():
    "(file, number) of lines with several statements"
    for p in {p for p,*_ in lines()}:
        with tokenize.open(p) as f: tokens = [*tokenize.generate_tokens(f.readline)]
        yield from {(p,t.start[0]) for t in tokens if t.type==tokenize.OP and t.string==';'}

@pytest.mark.parametrize('length,most', [(140,.003),(120,.01)])
def test_few_lines_are_long(length, most):
    long,n = [f'{p.name}:{i}' for p,i,l in lines() if len(l)>length],sum(1 for _ in lines())
    assert len(long)<=most*n, f'{len(long)} of {n} lines are longer than {length}: {long}'

def test_a_line_is_a_statement():
    several,n = sorted(f'{p.name}:{i}' for p,i in semicolons()),sum(1 for _ in lines())
    assert len(several)<=.005*n, f'{len(several)} of {n} lines hold several statements: {several}'

# What is built

def packages():
    "What the wheel holds, by pyproject.toml"
    conf = tomllib.loads((root/'pyproject.toml').read_text())['tool']['setuptools']['packages']['find']
    return find_packages(root, include=conf['include'])

def test_the_wheel_holds_all_packages():
    ours = {p.parent.relative_to(root).as_posix().replace('/','.') for p in (root/'ssd_fastai').rglob('*.py')}
    assert set(packages())==ours and set(parts)=={o.removeprefix('ssd_fastai.') for o in ours-{'ssd_fastai'}}

def notes(tag): return subprocess.run([root/'.ci/notes',tag], capture_output=True, text=True)

def test_release_notes_are_of_one_version():
    import ssd_fastai
    text = notes(f'v{ssd_fastai.__version__}').stdout
    assert text.startswith(f'## {ssd_fastai.__version__}') and text.count('\n## ')==0 and len(text)>500
    assert text.strip() in (root/'CHANGELOG.md').read_text()

def test_release_notes_of_an_unknown_version(): assert notes('v99.9').returncode==1

def test_settings_are_one_truth():
    from ssd_fastai.use.settings import default_settings
    assert (root/'settings.ini').read_text()==default_settings

def test_the_course_runs_anywhere():
    "A lesson exports nothing: it is opened in Colab, or in an empty folder"
    for nb in (root/'nbs/course').glob('*.ipynb'): assert 'nbdev_export' not in nb.read_text(), nb
