"The site builds offline, every link and anchor in it leads somewhere, no formula is blank, and a browser shows every page without complaint."
import ast, functools, http.server, json, os, re, shutil, subprocess, sys, threading
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest, yaml
pytest.importorskip('smalldocs', reason='smalldocs, which builds the site, needs Python 3.11')

import docs
from conftest import LIB, NBS, PAGES, ROOT

pytestmark = [pytest.mark.xdist_group('site'), pytest.mark.timeout(1200)]
NAMES = [docs.page_name(p.with_suffix('.html').name) for p in PAGES]
each_page = pytest.mark.parametrize('name', NAMES)

class Page(HTMLParser):
    "Ids, links, resources, pictures and text of one page."
    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.resources, self.pictures, self.maths, self.titles, self.text, self.stack = [], [], [], [], [], [], '', []
        self.source = path.read_text(encoding='utf-8'); self.feed(self.source)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs); self.ids += [a['id']] if 'id' in a else []
        if tag not in ('img', 'link', 'meta', 'br', 'hr', 'input', 'source', 'wbr', 'col'): self.stack.append((tag, a.get('class') or ''))
        if tag == 'a' and 'href' in a: self.links.append(a['href'])
        if tag == 'link' and a.get('rel') in ('stylesheet', 'icon', 'preload'): self.resources.append(a['href'])
        if tag in ('script', 'img', 'source', 'iframe') and a.get('src'): self.resources.append(a['src'])
        if tag == 'img': self.pictures.append(a)
        if tag == 'span' and 'math' in (a.get('class') or '').split(): self.maths.append('')
        if tag == 'h1': self.titles.append('')
    def handle_endtag(self, tag):
        while self.stack and self.stack.pop()[0] != tag: pass
    def handle_data(self, data):
        tags = [t for t, _ in self.stack]
        if 'math' in tags and self.maths: self.maths[-1] += data.strip()
        elif not {'code', 'pre', 'script', 'style', 'math'} & set(tags): self.text += data
        if 'h1' in tags: self.titles[-1] += data.strip()

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The built site, as `make docs` builds it."
    out = tmp_path_factory.mktemp('site')/'docs'
    done = subprocess.run([sys.executable, str(ROOT/'tools'/'docs.py'), '--out', str(out)], cwd=ROOT, capture_output=True, text=True,
                          env={k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'COV_CORE_SOURCE')})
    assert done.returncode == 0, f'`make docs` failed:\n{done.stderr[-3000:]}'
    return out

@pytest.fixture(scope='session')
def html(site): return {p.relative_to(site).as_posix(): Page(p) for p in site.rglob('*.html') if 'site_libs' not in p.parts}

def test_every_notebook_is_a_page(html): assert sorted(html) == sorted([*NAMES, '404.html'])

def test_missing_page(site, html):
    "404.html is shown at any address, so its links start at the top of the site; the way back, the search and the styles are among them."
    page, base = html['404.html'], urlsplit(docs.get_config().doc_host).path + docs.get_config().doc_baseurl
    inside = [u for u in page.links + page.resources if not urlsplit(u).scheme and not u.startswith('#')]
    assert len(inside) > len(NAMES) and f'content="{base}/"' in page.source
    wrong = [u for u in inside if not u.startswith(f'{base}/') or not (site/unquote(urlsplit(u).path)[len(base) + 1:]).exists()]
    assert not wrong, f'404.html: {wrong}'

def test_shared_links_have_a_picture(site, html):
    "Every page names the same card by its full address, and the card is in the site and light."
    cards = {u for p in html.values() for u in re.findall(r'<meta property="og:image" content="([^"]+)"', p.source)}
    assert len(cards) == 1 and all('og:image' in p.source for p in html.values())
    card = site/urlsplit(cards.pop()).path.removeprefix(docs.get_config().doc_baseurl).strip('/')
    assert card.is_file() and card.stat().st_size < 300_000

def test_sidebar_lists_every_page():
    "Pages and the reading order are the same set."
    sections = yaml.safe_load((NBS/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    listed = [c for s in sections for c in s['contents']]
    assert [s['section'] for s in sections] == ['Start', 'Method', 'Experiments', 'Beyond the paper', 'Reference']
    assert sorted(listed) == sorted(p.name for p in PAGES), 'nbs/sidebar.yml and the notebooks in nbs/ differ'

def test_every_page_leads_to_the_next():
    "In the reading order of the sidebar: the last words of a page link to the page that follows, those of the last one to the front page."
    sections = yaml.safe_load((NBS/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    order = [c for s in sections for c in s['contents']][1:]
    said = lambda page: [''.join(c['source']) for c in json.loads((NBS/page).read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown'][-1]
    lost = [f'{a} does not lead to {b}' for a, b in zip(order, [*order[1:], 'index.ipynb']) if f']({b}' not in said(a)]
    assert not lost, lost

def test_quarto_files_agree():
    "nbdev looks for the configuration beside the notebooks, people at the top."
    assert (NBS/'_quarto.yml').read_bytes() == (ROOT/'_quarto.yml').read_bytes()

def broken(site, html, name):
    "Links and resources of a page that lead nowhere, and resources that need the network."
    page, out = html[name], []
    for url in page.links + page.resources:
        u = urlsplit(url)
        if u.scheme in ('http', 'https', 'mailto', 'data') or u.netloc:
            if url in page.resources and u.scheme != 'data': out.append(f'{url} (from the network)')
            if 'ogm-distill.github.io' in u.netloc: out.append(f'{url} (a page of this site, by its public address)')
            continue
        target = (site/name).parent/unquote(u.path) if u.path else site/name
        if not target.exists(): out.append(url); continue
        dest = html.get(os.path.relpath(target, site).replace(os.sep, '/'))
        if u.fragment and dest and unquote(u.fragment) not in dest.ids: out.append(f'{url} (no such anchor)')
    return out

@each_page
def test_links_lead_somewhere(site, html, name):
    assert len(html[name].links) > len(NAMES), 'the navigation is missing'
    assert not (bad := broken(site, html, name)), f'{name}: {bad}'

def test_styles_need_no_network(site):
    for css in site.rglob('*.css'):
        text = css.read_text(encoding='utf-8')
        urls = [u for u in re.findall(r'url\(\s*["\']?([^"\')]+)', text) if not u.startswith(('data:', '#'))] + re.findall(r'@import\s+["\']([^"\']+)', text)
        missing = [u for u in urls if u.startswith(('http', '//')) or not (css.parent/u.split('?')[0].split('#')[0]).exists()]
        assert not missing, f'{css.relative_to(site)}: {missing}'

@each_page
def test_formulas_are_rendered(html, name):
    "As MathML with something in it; no TeX is left in the text."
    page = html[name]; written = '\n'.join(''.join(c['source']) for c in json.loads((NBS/source_of(name)).read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown')
    assert not [m for m in page.maths if not m], f'{name}: {page.maths.count("")} blank formulas'
    if re.search(r'\$\$?[A-Za-z\\(]', re.sub(r'`[^`]*`', '', written)): assert page.maths, f'{name} has formulas in the notebook and none on the page'
    assert not (left := re.findall(r'\\\(|\\\[|\$\$|\\(?:frac|mathbf|sum|top|text)\b', page.text)), f'{name}: TeX left in the text: {left}'

def source_of(name): return next(p.name for p in PAGES if docs.page_name(p.with_suffix('.html').name) == name)

@each_page
def test_page_is_light_and_described(html, name):
    page = html[name]; size = len(re.sub(r'data:image/[^"]+', '', page.source))
    assert size < 300_000, f'{name}: {size//1000} kB without pictures'
    assert len(page.titles) == 1 and page.titles[0], f'{name}: {page.titles}'
    assert '<html lang="' in page.source and '<title>' in page.source
    assert all(p.get('alt') for p in page.pictures), f'{name}: a picture without a description'
    double = {i for i in page.ids if page.ids.count(i) > 1}
    assert not double, f'{name}: ids used twice: {double}'

def test_every_public_name_is_documented(html):
    "nbdev's signature of each public function and class stands on the page of its module, at the anchor that nbdev's links use."
    import ogm._modidx as idx
    names = [(k.rpartition('.')[2], url) for mod in idx.d['syms'].values() for k, (url, file) in mod.items() if k.count('.') == 2]
    public = [(n, url) for n, url in names if not n.startswith('_')]
    assert public
    missing = [url for n, url in public if url.split('#')[1] not in html[url.split('#')[0]].ids or f'{n}' not in html[url.split('#')[0]].source]
    assert not missing, f'no heading for {missing}'
    assert {p.stem for p in LIB.glob('[a-z]*.py')} <= {m.rpartition('.')[2] for m in idx.d['syms']}, 'ogm/_modidx.py is stale: nbdev_export'

def test_functions_stand_in_the_order_of_the_page(html):
    "Each is shown where it is defined, and what is defined in one cell in the order of that cell."
    for file in sorted(LIB.glob('[a-z]*.py')):
        page = html.get(f'{file.stem}.html')
        names = [n.name.lower() for n in ast.parse(file.read_text(encoding='utf-8')).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_')]
        shown = [i for i in page.ids if i in names] if page else []
        assert shown == [n for n in dict.fromkeys(names) if n in shown], f'{file.stem}.html: {shown}'

@pytest.mark.parametrize('kinds,order', [('dsd-', 'BAs-'), ('dsddds', 'CBAsDs'), ('dsdsd-', 'AsCBs-'), ('-dsds', '-AsBs'), ('dsdd', 'CBAs')])
def test_order_of_signatures(kinds, order):
    "d: a signature as nbdev leaves it; s: source of the cell that it came from."
    names = iter('ABCDEFG'); source = {'d': 'show_doc(', 's': '#| code-summary: "Exported source"', '-': 'text'}
    cells = [dict(source=source[k], name=next(names) if k == 'd' else k) for k in kinds]
    assert ''.join(c['name'] for c in docs.in_order(cells)) == order

def test_long_lines_go_on_below():
    "A line is one piece, and what a highlighter has begun above it, such as a string, goes on in it; the text stays what it was."
    code = '<code class="sourceCode python">a\n<span class="st">"' + 'x'*40 + '\n    ' + 'y'*40 + '"</span></code>'
    done = re.sub(r'(<code class="sourceCode [^"]*">)(.*?)</code>', docs.code_lines, code, flags=re.S); text = lambda t: re.sub('<[^>]+>', '', t)
    assert text(done) == text(code) and done.count('<span class="ln"') == 2 and done.count('<span') == done.count('</span>') and 'style="--i:4"><span class="st">' in done

def test_a_figure_stays_in_one_piece():
    cell = lambda t: re.sub(r'<td([^>]*)>([^<>]*)</td>', docs.unbroken, f'<td>{t}</td>')
    assert cell('+5.9 ± 1.0') == '<td class="spread">+5.9 ± 1.0</td>' and 'class' in cell('&lt; 0.001') and cell('ten 10') == '<td>ten 10</td>'

# ---- in a browser

CHROMIUM = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
FLAGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()

@pytest.fixture(scope='session')
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()

@pytest.fixture(scope='session')
def browser():
    if not CHROMIUM: pytest.skip('no Chromium here: apt-get install chromium, or set CHROMIUM to a Chrome')
    api = pytest.importorskip('playwright.sync_api')
    with api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield b
        b.close()

LOOK = r'''() => { const rgb = s => { const v = (s.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number); return v.length < 4 ? [...v, 1] : v }, known = new Map();
  const ground = e => { // what lies behind the text of an element, red, green, blue and how solid, each times that; and how solid the text is
    if (!e) return [[0, 0, 0, 0], 1];
    if (!known.has(e)) { const s = getComputedStyle(e), c = rgb(s.backgroundColor), [below, solid] = ground(e.parentElement);
      known.set(e, [[0, 1, 2].map(i => c[3] * c[i] + (1 - c[3]) * below[i]).concat(c[3] + (1 - c[3]) * below[3]), solid * s.opacity]) }
    return known.get(e) };
  document.querySelectorAll('img').forEach(i => i.loading = 'eager');
  const frames = () => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r))), moving = () => document.getAnimations().map(a => a.finished.catch(() => 0));
  const still = () => frames().then(() => { const m = moving(); return m.length && Promise.all(m).then(still) }); // one change of colour can start the next
  return Promise.all([...document.images].map(i => i.complete || new Promise(r => { i.onload = i.onerror = r }))).then(still).then(() => ({
    wide: document.documentElement.scrollWidth - window.innerWidth,
    cut: [...document.querySelectorAll('main *')].filter(e => {
      if (e.getBoundingClientRect().right <= document.querySelector('main').getBoundingClientRect().right + 2) return false;
      for (let p = e.parentElement; p.tagName != 'MAIN'; p = p.parentElement) if (getComputedStyle(p).overflowX != 'visible') return false;
      return true }).map(e => e.outerHTML.slice(0, 100)),
    torn: [...document.querySelectorAll('main td, main th')].filter(e => getComputedStyle(e).display != 'table-cell').map(e => e.textContent.slice(0, 40)),
    broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
    blank: [...document.querySelectorAll('main math')].filter(m => !m.closest('details:not([open])')).filter(m => { const r = m.getBoundingClientRect(); return r.width < 2 || r.height < 4 }).map(m => m.textContent),
    faint: [...document.querySelectorAll('body *')].filter(e => {
      if (![...e.childNodes].some(c => c.nodeType == 3 && c.data.trim()) || !e.checkVisibility() || !e.getBoundingClientRect().width || e.closest('.visually-hidden')) return false;
      let [back, solid] = ground(e);
      back = [0, 1, 2].map(i => back[i] + (1 - back[3]) * 255);
      let text = rgb(getComputedStyle(e).color); solid *= text[3]; text = [0, 1, 2].map(i => solid * text[i] + (1 - solid) * back[i]);
      const light = c => c.slice(0, 3).map(v => (v /= 255) <= .04 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((t, v, i) => t + v * [.2126, .7152, .0722][i], 0);
      const [a, b] = [light(text), light(back)].sort((x, y) => y - x);
      return (a + .05) / (b + .05) < (parseFloat(getComputedStyle(e).fontSize) < 24 ? 4.5 : 3) }).map(e => e.textContent.trim().slice(0, 40)), // WCAG AA
    ground: getComputedStyle(document.body).backgroundColor,
    font: document.fonts.check('16px "STIX Two Math"'),
    unseen: ['main', 'h1'].filter(s => !document.querySelector(s)?.getBoundingClientRect().height) })) }'''

@pytest.mark.browser
@each_page
def test_page_in_a_browser(browser, address, html, name):
    "Wide and light, wide and dark, narrow and dark: no console message, no failed request, nothing wider than the window or cut off, no text too faint to read, no broken picture, no blank formula."
    page = browser.new_page(viewport=dict(width=1280, height=900), color_scheme='light'); said, grounds = [], []; page.set_default_timeout(20_000)
    page.on('console', lambda m: said.append(m.text) if m.type in ('error', 'warning') else None)
    page.on('pageerror', lambda e: said.append(str(e))); page.on('requestfailed', lambda r: said.append(f'failed: {r.url}'))
    try:
        page.goto(f'{address}/{name}', wait_until='load')
        for width, scheme in [(1280, 'light'), (1280, 'dark'), (390, 'dark')]:
            page.set_viewport_size(dict(width=width, height=900)); page.emulate_media(color_scheme=scheme)
            if scheme == 'dark': page.wait_for_function('was => getComputedStyle(document.body).backgroundColor != was', arg=grounds[0])
            seen = page.evaluate(LOOK)
            for _ in range(5): # the ground turns dark a moment before all that stands on it, and on a busy machine one can look in between
                if seen['faint']: page.wait_for_timeout(500); seen = page.evaluate(LOOK)
            grounds.append(seen['ground'])
            if width == 1280 and seen['wide'] <= 0 and html[name].maths: assert seen['font'], f'{name}: the font of the formulas did not load'
            assert not said, f'{name} at {width} px: {said}'
            assert seen['wide'] <= 0, f'{name} is {seen["wide"]} px wider than a window of {width} px'
            assert not seen['cut'], f'{name} at {width} px: wider than the column, without a way to scroll: {seen["cut"][:3]}'
            assert not seen['torn'], f'{name} at {width} px: cells that have left their table: {seen["torn"][:3]}'
            assert not seen['faint'], f'{name}, {scheme}: text that one can hardly tell from what is behind it: {seen["faint"][:5]}'
            assert not seen['broken'] and not seen['blank'] and not seen['unseen'], f'{name} at {width} px: {seen}'
    finally: page.close()

@pytest.mark.browser
def test_search_and_dark_mode(browser, address):
    "Search by keyboard finds a function, can be read, and leads there; the switch turns the page dark."
    page = browser.new_page(viewport=dict(width=1280, height=900), color_scheme='light')
    try:
        page.goto(f'{address}/index.html')
        light = page.evaluate('getComputedStyle(document.body).backgroundColor')
        page.evaluate('smalldocsToggleScheme()'); page.wait_for_timeout(300)
        assert page.evaluate('getComputedStyle(document.body).backgroundColor') != light
        for _ in range(2): # in the dark, then in the light
            page.keyboard.press('/'); page.keyboard.type('address_seed')
            page.wait_for_selector('.smalldocs-search-results a.search-result[href*="core.html"]', timeout=10_000)
            assert not (faint := page.evaluate(LOOK)['faint']), f'search results that can hardly be read: {faint[:5]}'
            page.reload(); page.evaluate('smalldocsToggleScheme()'); page.wait_for_timeout(300)
        page.keyboard.press('/'); page.keyboard.type('address_seed'); page.wait_for_selector('a.search-result[href*="core.html"]')
        page.keyboard.press('ArrowDown'); page.keyboard.press('Enter'); page.wait_for_url('**/core.html*')
        for typed, wanted in [('whole disk temporary', 'core.html#whole'), ('eigenvectors gap', 'polar.html'), ('ogm_loss', 'loss.html#ogm_loss'), ('newton shulz', 'polar.html')]: # words apart, a name, a slip
            page.keyboard.press('/'); page.keyboard.press('Control+a'); page.keyboard.type(typed)
            page.wait_for_function("t => document.querySelector('.smalldocs-search-results').innerText.length && document.querySelector('.smalldocs-search input').value == t", arg=typed)
            page.wait_for_timeout(400); first = [a.get_attribute('href') for a in page.query_selector_all('a.search-result')][:3]
            assert any(wanted in h for h in first), f'{typed}: {first}'
            page.keyboard.press('Escape')
    finally: page.close()
