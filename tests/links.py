"Write the links between notebooks and the sidebar of the docs: `python tests/links.py [notebook …]`"
import json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
titles = dict(course='The course', data='data: photos and boxes', ssd='ssd: the detector',
              train='train: learning and measuring', published='published: detectors by name',
              use='use: away from the notebook')

def reading_order()->list:
    "All notebooks: the README, the course, then the parts of the library"
    return [root/'nbs/index.ipynb', *(nb for part in titles for nb in sorted((root/'nbs'/part).glob('*.ipynb')))]

def link(
    nb:Path, # The notebook that has the link
    to:Path, # The notebook it points to
)->str: # A Markdown link, relative to `nb`
    name = to.relative_to(root/'nbs').with_suffix('').as_posix()
    up = '' if nb.parent==root/'nbs' else '../'
    return f'[{name}]({up}{name}.ipynb)'

def nav(nb:Path)->str:
    "The last line of a notebook: where the reader came from, and where to go from here"
    order = reading_order()
    i = order.index(nb)
    back = [f'← {link(nb, order[i-1])}'] if i else []
    on = [f'{link(nb, order[i+1])} →'] if i+1<len(order) else []
    return ' · '.join(back+on)

def is_seen(cell)->bool:
    "Do readers see a cell?"
    return cell['cell_type']=='markdown' or not ''.join(cell['source']).lstrip().startswith('#| hide')

def with_nav(
    nb:Path, # A notebook
)->str: # Its text with the links in a cell of the id `nav`, after the last cell that readers see
    d = json.loads(nb.read_text(encoding='utf-8'))
    cells = [c for c in d['cells'] if c.get('id')!='nav']
    seen = [i for i,c in enumerate(cells) if is_seen(c)]
    cells.insert(seen[-1]+1, dict(cell_type='markdown', id='nav', metadata={}, source=[nav(nb)]))
    return json.dumps({**d,'cells':cells}, ensure_ascii=False, indent=1, sort_keys=True) + '\n'

def sidebar()->str:
    "The text of nbs/sidebar.yml: nbdev's own would sort the folders by name"
    lines = ['# Written by tests/links.py', 'website:', '  sidebar:', '    contents:', '      - index.ipynb']
    for part,title in titles.items():
        lines += [f'      - section: "{title}"', '        contents:']
        lines += [f'          - {part}/{nb.name}' for nb in reading_order() if nb.parent.name==part]
    return '\n'.join(lines) + '\n'

def broken_links(
    text:str, # Markdown
    folder:Path, # Where it lies
)->list: # The relative links that point to nothing
    text = re.sub(r'^```.*?^```', '', text, flags=re.S|re.M)
    to = [re.sub(r'#.*', '', o) for o in re.findall(r'\]\(([^)\s]+)\)', text)]
    return [o for o in to if o and '://' not in o and not o.startswith('mailto:') and not (folder/o).exists()]

if __name__=='__main__':
    chosen = [Path(o).resolve() for o in sys.argv[1:]]
    for nb in chosen or reading_order(): nb.write_text(with_nav(nb), encoding='utf-8')
    (root/'nbs/sidebar.yml').write_text(sidebar())
