"README.md is the front page of the site: written from nbs/index.ipynb, and its links lead somewhere."
import re

import pytest

import readme
from conftest import NBS, ROOT

TEXT = (ROOT/'README.md').read_text(encoding='utf-8')

def test_readme_is_in_step_with_index():
    assert TEXT == readme.readme(NBS/'index.ipynb'), 'run `make readme`: README.md is not what nbs/index.ipynb makes'

def test_readme_links_exist():
    "Files by path, and anchors within the README itself."
    prose = re.sub(r'^```.*?^```', '', TEXT, flags=re.S | re.M)
    links = re.findall(r'\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"', prose)
    local = [a or b for a, b in links if not re.match(r'[a-z]+:', a or b)]
    assert local, 'the README links to no page'
    slugs = {re.sub(r'[^\w\- ]', '', h).strip().lower().replace(' ', '-') for h in re.findall(r'^#+ (.+)$', prose, re.M)}
    missing = [l for l in local if (l[1:] not in slugs if l.startswith('#') else not (ROOT/l.split('#')[0]).exists())]
    assert not missing, f'README.md links to {missing}'

def test_readme_commands_exist():
    "Every `make` target that the README names is one of the Makefile's."
    targets = set(re.findall(r'^([a-z]+):', (ROOT/'Makefile').read_text(encoding='utf-8'), re.M))
    named = set(re.findall(r'(?:^|`)make ([a-z]+)', TEXT, re.M))
    assert {'demo', 'test'} <= named, 'the README names `make demo` and `make test`'
    assert named <= targets, f'the Makefile has no {sorted(named - targets)}'

# ---- the converter itself, on cells that do not occur in today's index

def test_cells_become_markdown():
    code = lambda source, *outputs: dict(cell_type='code', source=source, outputs=list(outputs))
    shown = dict(output_type='execute_result', data={'text/plain': ['3'], 'text/markdown': ['**3**']})
    assert readme.cell(code('#| hide\nx')) == [] == readme.cell(code('#| default_exp core'))
    assert readme.cell(code('1+2', shown)) == ['```python\n1+2\n```', '**3**']
    assert readme.cell(code('#| echo: false\n1+2', shown)) == ['**3**']
    assert readme.cell(code('print(1)', dict(output_type='stream', name='stdout', text=['1\n'])))[1] == '```\n1\n```'
    assert readme.cell(dict(cell_type='markdown', source='[a](01_data.ipynb#x) ![b](images/b.png) [c](../LICENSE) [d](https://e.f) [g](#h)')) == [
        '[a](nbs/01_data.ipynb#x) ![b](nbs/images/b.png) [c](LICENSE) [d](https://e.f) [g](#h)']
    with pytest.raises(SystemExit, match='nbs/images'): readme.cell(code('plot()', dict(output_type='display_data', data={'image/png': 'x'})))
