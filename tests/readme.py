"Write README.md from nbs/index.ipynb: `python tests/readme.py`"
import re
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parents[1]
pictures = {'image/png','image/jpeg'}

def shown(cell)->bool:
    "Does a cell belong in the README? Not the hidden ones, and not the links to other notebooks"
    return cell.get('id')!='nav' and not cell.source.lstrip().startswith('#| hide')

def tidy(cell):
    "A cell without the pictures that it drew (the one in the text serves) and without warnings"
    if cell.cell_type!='code': return cell
    drawn = lambda o: pictures & set(o.get('data',{}))
    cell.outputs = [o for o in cell.outputs if o.get('name')!='stderr' and not drawn(o)]
    return cell

def from_root(text:str)->str:
    "Markdown of nbs/ with links and pictures as they are seen from the folder above"
    return re.sub(r'\]\((?![a-z]+:|#)', '](nbs/', text)

def readme()->str:
    "The text of README.md"
    nb = nbformat.read(root/'nbs/index.ipynb', 4)
    nb.cells = [tidy(c) for c in nb.cells if shown(c)]
    nb.metadata['language_info'] = dict(name='python')
    body,_ = MarkdownExporter().from_notebook_node(nb)
    body = re.sub(r'<style>.*?</style>', '', from_root(body), flags=re.S)
    body = re.sub(r'[ \t]+\n', '\n', body)
    body = re.sub(r'\n{3,}', '\n\n', body)
    return '<!-- Written by tests/readme.py from nbs/index.ipynb: edit that -->\n\n' + body.strip() + '\n'

if __name__=='__main__': (root/'README.md').write_text(readme())
