"""Build the site into `_docs/` without Quarto and without the network: `python tools/docs.py [--out DIR] [--draft]`.

nbdev processes the notebooks (signatures, links between names), smalldocs renders the pages from `_quarto.yml`, and the little that is
left is done here: the page names that nbdev's links expect, formulas as MathML, pictures as files. Stops at the first broken link or formula."""
import argparse, base64, hashlib, html, json, os, re, shutil, struct, sys, tempfile
from pathlib import Path
from urllib.parse import urlsplit

import filelock, math_core, yaml
from fastcore.utils import working_directory
from nbdev.config import get_config
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from smalldocs.site import build

ROOT = Path(__file__).resolve().parent.parent
MATH = math_core.LatexToMathML(fancy_error=False, macros={'widetilde': r'\tilde{#1}', 'widehat': r'\hat{#1}', 'bm': r'\boldsymbol{#1}'})

# ---- nbdev

def process():
    "`_proc/`: what nbdev makes of the notebooks, made anew when the package or the settings changed, and without pages that are gone. One process at a time: another would delete what this one has made."
    with filelock.FileLock(Path(tempfile.gettempdir())/f'docs-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]}.lock'): return _process()

def _process():
    cfg = get_config(); cache = cfg.config_path/'_proc'; key = hashlib.sha256()
    for f in [cfg.config_file, *sorted(cfg.lib_path.glob('*.py'))]: key.update(f.read_bytes())
    mark = cache/'.key'; force = not mark.exists() or mark.read_text() != key.hexdigest()
    refresh_quarto_yml()
    proc_nbs(n_workers=0, force=force) # in this process: a pool whose worker dies leaves pages out and only prints why
    if missing := [p.name for p in sorted(cfg.nbs_path.glob('*.ipynb')) if not (cache/p.name).exists()]: sys.exit(f'nbdev left out {", ".join(missing)}')
    for f in cache.rglob('*'):
        if f.is_file() and f != mark and not (cfg.nbs_path/f.relative_to(cache)).exists(): f.unlink()
    mark.write_text(key.hexdigest())
    return cache

# ---- page names: `04_polar.ipynb` becomes `polar.html`, the name in nbdev's links

def page_name(name): return re.sub(r'^\d+[a-zA-Z0-9]*_', '', name)

def rename_links(text, names):
    "`text` with links to `names` in Markdown, HTML and YAML renamed to the page's own name."
    return re.sub(r'(?<![\w/.-])(' + '|'.join(map(re.escape, sorted(names))) + r')(?=[)#"\'\s]|$)', lambda m: page_name(m[1]), text)

def stage(proc, dest):
    "Copies `_proc` to `dest` under the names that the site uses."
    shutil.copytree(proc, dest, ignore=shutil.ignore_patterns('.key', '_docs', 'results'))
    pages = {p.name for p in dest.glob('*.ipynb')}
    for p in dest.glob('*.ipynb'):
        nb = json.loads(p.read_text(encoding='utf-8'))
        for c in nb['cells']:
            if c['cell_type'] == 'markdown': c['source'] = rename_links(''.join(c['source']), pages)
            for o in c.get('outputs', []):
                if (md := o.get('data', {}).get('text/markdown')): o['data']['text/markdown'] = unlink_code(rename_links(''.join(md), pages))
        nb['cells'] = in_order(nb['cells'])
        p.unlink(); (dest/page_name(p.name)).write_text(json.dumps(nb), encoding='utf-8')
    for p in dest.glob('*.yml'): p.write_text(rename_links(drop_missing(p.read_text(encoding='utf-8'), pages, p.name), pages), encoding='utf-8')

def in_order(cells):
    "`cells` with the signatures of a cell that defines several functions before its source and in its order: nbdev puts the last one first and the others behind."
    kinds = ''.join('d' if re.search(r'^show_doc\(', ''.join(c['source']), re.M) else 's' if 'Exported source' in ''.join(c['source']) else '-' for c in cells)
    for m in re.finditer('ds(d*?)(?=ds|[^d]|$)', kinds): # the signature in front of the next source belongs to that
        a, b = m.span(); cells[a:b] = [*cells[a+2:b][::-1], cells[a], cells[a+1]]
    return cells

def unlink_code(md):
    "`md` without the links that nbdev puts into the comments of a signature, where they would be shown as typed."
    return re.sub(r'^```.*?^```', lambda m: re.sub(r'\[(`[^`\n]+`)\]\([^)\n]*\)', r'\1', m[0]), md, flags=re.S|re.M)

def drop_missing(text, pages, where):
    "The YAML `text` without entries for notebooks that do not exist (yet), which are named on stderr."
    def keep(x):
        if isinstance(x, dict): return {k: keep(v) for k, v in x.items()}
        if isinstance(x, list): return [keep(v) for v in x if not gone(v)]
        return x
    def gone(x):
        href = x.get('href') if isinstance(x, dict) else x
        missing = isinstance(href, str) and href.endswith('.ipynb') and href not in pages
        if missing: print(f'{where}: no page {href} yet, left out', file=sys.stderr)
        return missing
    return yaml.safe_dump(keep(yaml.safe_load(text)), sort_keys=False, allow_unicode=True)

# ---- what smalldocs leaves to scripts from a network

def formula(m, page):
    "One formula as MathML, with its number if it carries a `\\tag`."
    block, tex = m[1] == 'display', html.unescape(m[2]).strip()
    tex, tags = re.subn(r'\\tag\*?\{([^}]*)\}', '', tex); number = re.search(r'\\tag\*?\{([^}]*)\}', html.unescape(m[2]))
    try: res = MATH.convert_with_local_state(tex, displaystyle=block)
    except math_core.LatexError as e: sys.exit(f'{page}: cannot render the formula ${tex}$: {e}')

    return f'<span class="math {m[1]}">' + (f'<span class="equation-number">({number[1]})</span>' if tags else '') + res + '</span>'

def picture(m, out, alt='output of the code above'):
    "One embedded picture as a file beside the page, with its size, so that the text does not jump."
    data = base64.b64decode(m[1]); name = f'pictures/{hashlib.sha256(data).hexdigest()[:16]}.png'
    (out/'pictures').mkdir(exist_ok=True); (out/name).write_bytes(data)
    w, h = struct.unpack('>II', data[16:24])
    return f'<img alt="{alt}" src="{name}" width="{w}" height="{h}" loading="lazy"'

def code_lines(m):
    "Code line by line, so that a line too long for the page goes on below, set in from where it began."
    out, opened = [], []
    for line in m[2].split('\n'):
        start = ''.join(opened) # what a highlighter began on a line above, such as a string, begins anew
        for tag in re.findall(r'<[^>]+>', line): opened.pop() if tag[1] == '/' else opened.append(tag)
        indent = len(line) - len(line.lstrip(' '))
        long = len(html.unescape(re.sub(r'<[^>]+>', '', line))) > 36 # than a telephone is wide
        line = start + line + '</span>'*len(opened)
        out.append(f'<span class="ln" style="--i:{indent}">{line}</span>' if long else line)
    return m[1] + '\n'.join(out) + '</code>'

def unbroken(m):
    "A cell of a table that holds a figure and its spread, in one piece."
    figure = re.fullmatch(r'(?:p = )?(?:[-+<≤≥−–±\d.,% ]|of)+', html.unescape(m[2])) and re.search(r'\d', m[2])
    return f'<td class="spread"{m[1]}>{m[2]}</td>' if figure and 'class' not in m[1] else m[0]

def from_anywhere(t, top):
    "The page `t` with links that hold wherever it is shown: a host shows 404.html in place of any page that is missing, however deep."
    t = re.sub(r'\b(href|src)="(?![a-z]+:|[#/])(?:\./)?([^"]*)"', lambda m: f'{m[1]}="{top}/{m[2]}"', t)
    return t.replace('<meta name="smalldocs:offset" content="./">', f'<meta name="smalldocs:offset" content="{top}/">')

def finish(out, base):
    "Formulas, pictures, tables that scroll, and links from name to name made relative, in every page of `out`."
    pages = {p.name: p.read_text(encoding='utf-8') for p in out.glob('*.html')}
    ids = {n: set(re.findall(r'\bid="([^"]+)"', t)) for n, t in pages.items()}
    def link(m):
        page, _, frag = m[1].partition('#')
        while frag and frag not in ids.get(page, {frag}) and '.' in frag: frag = frag.rpartition('.')[0] # a method has no heading: its class has
        return f'href="{page}{"#"+frag if frag else ""}"'
    for n, t in pages.items():
        t = re.sub(r'<(?:link|script)\b[^>]*cdn\.jsdelivr\.net/npm/katex[^>]*>(?:</script>)?', '', t)
        t = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', lambda m: formula(m, n), t, flags=re.S)
        t = re.sub(r'<img (?:class="[^"]*" )?src="data:image/png;base64,([^"]+)"', lambda m: picture(m, out), t)
        t = re.sub(rf'href="{re.escape(base)}/([^"]*)"', link, t)
        t = re.sub(r'(<script src="[^"]*fuse/)fuse\.min\.js"></script>', r'\g<0>\1search.js"></script>', t)
        t = t.replace('<span class="op">.</span>', '.') # has the colour of the names that it joins; to mark each makes long pages a fifteenth heavier
        t = re.sub(r'(<code class="sourceCode [^"]*">)(.*?)</code>', code_lines, t, flags=re.S)
        t = re.sub(r'<td([^>]*)>([^<>]*)</td>', unbroken, t)
        t = re.sub(r'(?<!<pre>)<code>([^<\n]{1,24})</code>', r'<code class="word">\1</code>', t) # an option is not torn at its hyphens
        t = re.sub(r'(<table\b.*?</table>)', r'<div class="table-scroll">\1</div>', t, flags=re.S)
        if n == '404.html': t = from_anywhere(t, urlsplit(base).path)
        (out/n).write_text(t, encoding='utf-8')
    shutil.copy(Path(__file__).with_name('search.js'), out/'site_libs'/'fuse')
    for p in out.rglob('*.css'): # themes ask Google for their fonts
        css = p.read_text(encoding='utf-8'); p.write_text(re.sub(r'@import\s*(?:url\([^)]*\)|"[^"]*"|\'[^\']*\')\s*;?', '', css), encoding='utf-8')

def main(out=None, draft=False):
    cfg = get_config(); out = Path(out or cfg.doc_path).resolve()
    base = cfg.doc_host.rstrip('/') + cfg.doc_baseurl.rstrip('/')
    proc = process()
    with tempfile.TemporaryDirectory() as tmp:
        src = Path(tmp)/'site'; stage(proc, src)
        site = build(src, quiet=True)
        ignored = re.compile(r'output-file|commonmark|enabled|resources')
        problems = [w for w in site.warnings if not ignored.search(w)]
        if problems and not draft: sys.exit('\n'.join(problems))
        finish(site.out, base)
        (site.out/'.nojekyll').touch()
        shutil.rmtree(out, ignore_errors=True); shutil.copytree(site.out, out)
    print(f'{len(list(out.glob("*.html")))} pages in {os.path.relpath(out)}')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', help='folder to write, default _docs')
    p.add_argument('--draft', action='store_true', help='build in spite of links to pages that do not exist yet')
    args = p.parse_args()
    with working_directory(ROOT): main(args.out, args.draft)
