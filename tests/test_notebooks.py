"Every page runs, proves the module that it exports, and is committed clean and exported."
import ast, importlib, os, re, shutil, symtable, subprocess, sys, traceback

import pytest
from execnb.nbio import read_nb
from execnb.shell import CaptureShell
from fastcore.utils import working_directory
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.test import test_nb as run_page

from conftest import LIB, NBS, PAGES, ROOT

pages = pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
SKIP = set(get_config(cfg_name='settings.ini', path=ROOT).tst_flags.split())

@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    "A page may change the process: give everything back."
    import matplotlib as mpl, matplotlib.pyplot as plt, torch
    monkeypatch.setattr(sys, 'path', list(sys.path)); monkeypatch.setenv('IN_TEST', '1'); monkeypatch.delenv('MPLBACKEND', raising=False)
    rng, threads, params, default = torch.get_rng_state(), torch.get_num_threads(), dict(mpl.rcParams), torch.get_default_dtype()
    yield
    plt.close('all')
    changed = [n for n, a, b in [('torch.set_num_threads', threads, torch.get_num_threads()), ('torch.set_default_dtype', default, torch.get_default_dtype())] if a != b]
    torch.set_rng_state(rng); torch.set_num_threads(threads); torch.set_default_dtype(default); mpl.rcParams.update(params)
    assert not changed, f'the page leaves global state behind: {changed}'

@pages
@pytest.mark.no_cover # of the module the page sees nothing, and to be watched takes half as long again
def test_page_runs(page, capsys):
    "As `nbdev_test` runs it: every cell but the flagged ones, from top to bottom."
    ok, _ = run_page(page, skip_flags=list(SKIP), basepath=ROOT)
    assert ok, f'{page.name}\n{capsys.readouterr().err}'

# ---- the same page against the module instead of its own exported cells: proves the export, and gives true coverage

def directives(cell): return getattr(cell, 'directives_', {}) or {}
def exported(cell): return bool({'export', 'exports', 'exporti'} & directives(cell).keys())
def skipped(cell): return bool(SKIP & directives(cell).keys()) or (directives(cell).get('eval:') or [''])[0].lower() == 'false'

def defined(source):
    "Names that a cell binds at its top level."
    return [s.get_name() for s in symtable.symtable(source, 'cell', 'exec').get_symbols() if s.is_assigned() or s.is_imported()]

def run_against(page, module):
    "Runs the cells of `page` that it does not export; each exported cell hands out `module`'s own objects instead."
    shell, cells = CaptureShell(page), NBProcessor(page).nb.cells
    with working_directory(page.parent):
        for cell in cells:
            if cell.cell_type != 'code': continue
            if exported(cell): shell.user_ns.update({n: getattr(module, n) for n in defined(cell.source) if hasattr(module, n)})
            elif not skipped(cell):
                shell.run(cell.source)
                if shell.exc: return f'{page.name}, cell {cell.idx_}:\n{cell.source}\n\n' + ''.join(traceback.format_exception(shell.exc))

def module_of(page):
    m = re.search(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(c.source for c in read_nb(page).cells if c.cell_type == 'code'), re.M)
    return m and m[1]

MODULES = [(p, module_of(p)) for p in PAGES if module_of(p)]

@pytest.mark.parametrize('page,name', MODULES, ids=[p.stem for p, _ in MODULES])
def test_page_proves_module(page, name):
    "What the page shows and asserts holds for the installed module, not only for the code in the page."
    module = importlib.import_module(f'ogm.{name}')
    assert module.__file__.startswith(str(LIB)), f'tests look at {module.__file__}, not at this tree: pip install -e .'
    problem = run_against(page, module)
    assert not problem, problem

# ---- committed as nbdev leaves it

@pages
def test_page_is_clean(page, tmp_path):
    "`nbdev_clean` has nothing to do."
    copy = tmp_path/page.name; shutil.copy(page, copy)
    with working_directory(ROOT): nbdev_clean.__wrapped__(fname=str(copy))
    assert copy.read_bytes() == page.read_bytes(), f'run nbdev_clean nbs/{page.name}'

@pages
def test_page_begins_with_its_title(page):
    "nbdev moves the first cell into the head of the page and drops what else it holds, so it is the title and one line, no more."
    first = next(c.source for c in read_nb(page).cells if c.cell_type == 'markdown')
    assert re.fullmatch(r'# \S.*\n\n?> \S.*\n*', first), f'the first cell of {page.name} must be "# title" and "> one line"; move the rest to a cell of its own:\n{first[:300]}'

@pages
def test_imports_stand_alone(page):
    "A site build runs each cell that imports, and no other example: so such a cell may do nothing else."
    mixed = []
    for cell in NBProcessor(page).nb.cells:
        if cell.cell_type != 'code' or exported(cell) or (directives(cell).get('eval:') or [''])[0].lower() == 'false': continue
        kinds = {type(n) for t in cell.parsed_() or [] for n in ast.walk(t)}
        if kinds & {ast.Import, ast.ImportFrom} and kinds & {ast.Expr, ast.Assign}: mixed.append(f'cell {cell.idx_}:\n{cell.source}')
    assert not mixed, f'{page.name} mixes imports with other code: move them to a cell of their own\n' + '\n\n'.join(mixed)

def test_export_leaves_no_diff(tmp_path):
    "`nbdev_export` writes exactly the committed package: nothing edited by hand, nothing stale, nothing missing."
    tree = tmp_path/'tree'
    shutil.copytree(NBS, tree/'nbs', ignore=shutil.ignore_patterns('_*', '.*', 'results'))
    for f in ('settings.ini', 'setup.py', 'README.md'): shutil.copy(ROOT/f, tree/f)
    (tree/'ogm').mkdir(); shutil.copy(LIB/'__init__.py', tree/'ogm')
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    done = subprocess.run([sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()'], cwd=tree, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = lambda d: {p.relative_to(d).as_posix(): p.read_text(encoding='utf-8') for p in d.rglob('*.py')}
    new, old = files(tree/'ogm'), files(LIB)
    assert old.keys() == new.keys(), f'only in ogm/: {sorted(old.keys()-new.keys())}; missing there: {sorted(new.keys()-old.keys())}'
    assert not (diff := [n for n in new if new[n] != old[n]]), f'run nbdev_export: {diff} differ from the notebooks'

@pages
def test_page_is_small_and_quiet(page):
    "Saved outputs stay below 100 kB, without errors, warnings, progress bars or paths of a machine."
    cells = [c for c in read_nb(page).cells if c.cell_type == 'code']
    outputs = [o for c in cells for o in c.get('outputs', [])]
    assert len(str(outputs)) < 135_000, f'{page.name}: {len(str(outputs))//1000} kB of saved output'  # base64 takes 4/3
    text = '\n'.join(''.join(o.get('text') or o.get('data', {}).get('text/plain', '')) for o in outputs)
    assert not [o for o in outputs if o.output_type == 'error' or o.get('name') == 'stderr'], f'{page.name} has saved an error or a warning'
    assert not (bad := re.findall(r'(?:/root/|/home/|/tmp/|/work/|C:\\Users)\S*|\d+%\|.*it/s', text)), f'{page.name} shows {bad[:3]}'
