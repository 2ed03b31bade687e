"""Write README.md from nbs/index.ipynb, as `nbdev_readme` would with Quarto: `python tools/readme.py [--check]`."""
import json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def relink(md):
    "Links and pictures of a notebook in nbs/, seen from the top of the repository."
    return re.sub(r'(\]\(|\bsrc="|\bhref=")(?![a-z]+:|#|/)(?:\./)?([^)"\s]+)', lambda m: m[1] + (m[2][3:] if m[2].startswith('../') else f'nbs/{m[2]}'), md)

def text(x): return ''.join(x)

def fence(s, lang=''):
    ticks = '`' * max(3, 1 + max(map(len, re.findall(r'`+', s)), default=0))
    return f'{ticks}{lang}\n{s.rstrip()}\n{ticks}'

def output(o):
    "One saved output of a cell as Markdown. A picture belongs into nbs/images, where a reader of the README finds it."
    if o['output_type'] == 'stream': return fence(text(o['text'])) if o['name'] == 'stdout' else ''
    if o['output_type'] == 'error': return fence(f"{o['ename']}: {o['evalue']}")
    d = o['data']
    if any(k.startswith('image/') for k in d): raise SystemExit('index.ipynb shows a picture as an output: save it in nbs/images and link it as ![what it shows](images/NAME.png)')
    for k in ('text/markdown', 'text/html'):
        if k in d: return relink(text(d[k])).strip()
    return fence(text(d.get('text/plain', '')))

def cell(c):
    s = text(c['source'])
    if c['cell_type'] == 'markdown': return [relink(s).strip()]
    if c['cell_type'] != 'code': return []
    directives = re.findall(r'^#\|\s*(.+?)\s*$', s, re.M); code = re.sub(r'^#\|.*\n?', '', s, flags=re.M).strip()
    if {'hide', 'export', 'exporti', 'include: false'} & set(directives) or any(d.startswith('default_exp') for d in directives): return []
    shown = [] if 'echo: false' in directives or not code else [fence(code, 'python')]
    return shown + [x for o in c.get('outputs', []) if (x := output(o))]

def readme(path=ROOT/'nbs'/'index.ipynb'):
    "README.md as text."
    nb = json.loads(Path(path).read_text(encoding='utf-8'))
    return '<!-- Written by `make readme` from nbs/index.ipynb: edit that. -->\n\n' + '\n\n'.join(x for c in nb['cells'] for x in cell(c)) + '\n'

if __name__ == '__main__':
    new, dest = readme(), ROOT/'README.md'
    if '--check' in sys.argv: sys.exit(dest.read_text(encoding='utf-8') != new and 'README.md is not what nbs/index.ipynb makes: run `make readme`')
    dest.write_text(new, encoding='utf-8')
