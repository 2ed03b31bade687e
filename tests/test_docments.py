"The reference says what goes into every public function, what comes out, and what can go wrong: read off the source, so nothing is imported."
import ast, io, tokenize

import pytest

from conftest import LIB

MODULES = sorted(p for p in LIB.glob('*.py') if p.stem not in ('__init__', '__main__', '_modidx'))

def comments(source):
    "Line numbers that end in a comment."
    return {t.start[0] for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT and t.string.strip('# ')}

def named(decorators): return {ast.unparse(d).partition('(')[0].rpartition('.')[2] for d in decorators}

def public(tree):
    "(name, node) of each function, class and method that the reference shows."
    exported = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == '__all__'), [])
    for n in tree.body:
        if isinstance(n, ast.FunctionDef) and named(n.decorator_list) & {'patch', 'patch_to'} and not n.name.startswith('_'):
            owner = ast.unparse(n.args.args[0].annotation or n.args.args[0])
            if not owner.startswith('_'): yield f'{owner}.{n.name}', n
        if getattr(n, 'name', None) in exported:
            yield n.name, n
            for m in getattr(n, 'body', []) if isinstance(n, ast.ClassDef) else []:
                if isinstance(m, ast.FunctionDef) and (not m.name.startswith('_') or m.name in ('__init__', '__call__')): yield f'{n.name}.{m.name}', m

def own(fn):
    "The statements of `fn` itself, without those of functions inside it."
    todo = list(fn.body)
    while todo:
        n = todo.pop(); yield n
        if not isinstance(n, (ast.FunctionDef, ast.Lambda, ast.ClassDef)): todo += ast.iter_child_nodes(n)

def gaps(source, errors=True):
    "What the reference would leave out, one line each; with `errors`, also which `OgmError` is not foretold."
    said = comments(source)
    for name, n in public(ast.parse(source)):
        text = ast.get_docstring(n) or ''; init = name.endswith('.__init__')
        if not text and not init: yield f'{name}: no docstring'
        if isinstance(n, ast.ClassDef):
            if 'dataclass' in named(n.decorator_list): yield from (f'{name}: field {f.target.id}' for f in n.body if isinstance(f, ast.AnnAssign) and f.lineno not in said)
            continue
        a = n.args; args = [x for x in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if x and x.arg not in ('self', 'cls')]
        if 'patch' in named(n.decorator_list): args = [x for x in args if x is not a.args[0]]
        lines = [x.lineno for x in args]
        yield from (f'{name}: parameter {x.arg}' for x in args if x.lineno not in said or lines.count(x.lineno) > 1)
        body = list(own(n)); gives = any(isinstance(b, (ast.Yield, ast.YieldFrom)) or isinstance(b, ast.Return) and b.value is not None for b in body)
        if gives and not init and 'contextmanager' not in named(n.decorator_list): # what a `with` hands out stands in the docstring
            if n.returns is None or n.returns.end_lineno not in said or n.returns.end_lineno in lines: yield f'{name}: what it returns'
        raised = {ast.unparse(b.exc).partition('(')[0] for b in body if isinstance(b, ast.Raise) and b.exc}
        if errors and 'OgmError' in raised and 'OgmError' not in text and not init: yield f'{name}: when it raises OgmError'

@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_every_parameter_has_its_docment(path):
    "One a line, with its comment; the return as well; errors in the docstring."
    missing = list(gaps(path.read_text(encoding='utf-8'), path.stem != 'cli')) # a command's docstring is its line in `ogm --help`, and all of them end in one line
    assert not missing, f'{path.name} says nothing about\n' + '\n'.join(missing)

BAD = '''__all__ = ['f', 'C', 'D']
from dataclasses import dataclass
def f(a, b, # both in one
      c): # '#'
    "Adds."
    if c: raise OgmError(a)
    return a
class C:
    "A thing."
    def __init__(self, x): self.x = x
    def m(self): return 1
    def _n(self, y): return y
@dataclass
class D:
    "Fields."
    a:int = 1 # said
    b:str = '#'
@patch
def p(self:C, k)->int: # k
    "One."
    return k
def _hidden(z): return z
'''

def test_gaps_are_found():
    "The check itself sees what is missing, and only that."
    assert sorted(gaps(BAD)) == sorted(['f: parameter a', 'f: parameter b', 'f: what it returns', 'f: when it raises OgmError', 'C.__init__: parameter x', 'C.m: no docstring', 'C.m: what it returns',
                                        'D: field b', 'C.p: what it returns'])
