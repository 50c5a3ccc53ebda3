"Write README.md from nbs/index.ipynb: `python tests/readme.py`"
import re
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parents[1]

def readme()->str:
    "The text of README.md"
    nb = nbformat.read(root/'nbs/index.ipynb', 4)
    nb.cells = [c for c in nb.cells if not c.source.lstrip().startswith('#| hide')]
    for c in nb.cells:
        for o in c.get('outputs', []):
            if {'image/png','image/jpeg'}&set(o.get('data',{})): o['data'] = {'text/plain':''}   # the picture at the top serves
        if c.cell_type=='code': c.outputs = [o for o in c.outputs if o.get('name')!='stderr']
    nb.metadata['language_info'] = dict(name='python')
    body,_ = MarkdownExporter().from_notebook_node(nb)
    body = body.replace('](images/','](nbs/images/')
    body = re.sub(r'<style>.*?</style>', '', body, flags=re.S)
    body = re.sub(r'\n\s*\n\s*\n+', '\n\n', re.sub(r'[ \t]+\n', '\n', body))
    return '<!-- Written by tests/readme.py from nbs/index.ipynb: edit that -->\n\n' + body.strip() + '\n'

if __name__=='__main__': (root/'README.md').write_text(readme())
