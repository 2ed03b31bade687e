"""Input that means harm, or merely is broken: each case ends in a result or in one clear line, soon, and nothing is written but what was asked for.

The cases are generated, the same ones every time. `OGM_HOSTILE=20 pytest tests/test_hostile.py` runs twenty times as many, new ones each time;
`python tests/test_hostile.py nbs/results/hostile.json` counts what was tried."""
import contextlib, html, io, json, os, pickle, re, shutil, struct, sys, tempfile, warnings, zlib
from collections import Counter
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
import pyarrow as pa, pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from PIL import Image
from safetensors.torch import save as to_bytes
from ogm.cli import main
from ogm.core import OgmError, load_tensors, seeded
from ogm.data import Source, Split, _legible, open_source
from ogm.distilled import DistilledSet, card, folder_name
from ogm.models import Teacher, build, load_teacher
from ogm.synthesis import Settings, distill
from ogm.training import RECIPES, Recipe, _resume, get_recipe, lr_factor, train

TIMES = int(os.environ.get('OGM_HOSTILE', 1))
COUNTS = {}     # name of the test -> Counter(result=…, refused=…)

pytestmark = pytest.mark.timeout(300*TIMES)

def cases(n, what, refusals=True, /, **given_):
    "Turn `f(**values) -> 'result' or 'refused'` into a test of `n` generated cases, none slower than twenty seconds."
    def wrap(f):
        count = COUNTS.setdefault(f.__name__, dict(what=what, count=Counter()))['count']
        @settings(max_examples=n*TIMES, deadline=timedelta(seconds=20), derandomize=TIMES == 1, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(**given_)
        def run(**values): count[f(**values)] += 1
        def test():
            count.clear()
            with _untouched(): run()
            assert count.total() >= n and set(count) <= {'result', 'refused'} and (count['refused'] > 0) == refusals, count
        test.__name__ = f.__name__; test.__doc__ = f.__doc__
        return test
    return wrap

def attempt(f, *args, **kw):
    "'result' or 'refused'; any other exception, and a message of more than one line, is a failure."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: f(*args, **kw)
        except OgmError as e:
            assert str(e) and len(str(e).splitlines()) == 1 and str(e) == _legible(e) and len(str(e)) < 1500, repr(str(e))
            return 'refused'
    return 'result'


# ---- a house with one open room

BASE = Path(tempfile.mkdtemp(prefix='ogm hostile '))
ROOM = BASE/'room'          # inputs and runs come here; everything beside it must stay as it is

def _watched(): # what must not change: name, kind, size and time of everything outside of the room
    return {str(p): (p.is_symlink(), p.stat().st_size if p.is_file() else None, p.stat().st_mtime_ns) for p in BASE.rglob('*') if ROOM not in (p, *p.parents)}

@contextlib.contextmanager
def _untouched():
    for name in ('cwd', 'beside/images', 'tmp'): (BASE/name).mkdir(parents=True, exist_ok=True)
    for name in ('secret.txt', 'beside/images/0.png', 'cwd/ogm.json', 'a.png'): (BASE/name).write_text('leave me alone')
    ROOM.mkdir(exist_ok=True); before, cwd = _watched(), os.getcwd(); os.chdir(BASE/'cwd')
    try: yield; assert _watched() == before
    finally: os.chdir(cwd); shutil.rmtree(ROOM, ignore_errors=True)

@contextlib.contextmanager
def room():
    "A fresh directory for one case."
    d = Path(tempfile.mkdtemp(dir=ROOM))
    try: yield d
    finally: shutil.rmtree(d, ignore_errors=True)

@pytest.fixture(autouse=True, scope='module')
def _sweep():
    yield
    shutil.rmtree(BASE, ignore_errors=True)


# ---- values

TEXTS = st.one_of(st.sampled_from(['', ' ', '..', '../x', 'a/../../b', '/etc/passwd', "it's", 'say "no"', 'two\nlines', 'tab\t', '\x1b[2J', '<script>alert(1)</script>', '| a | b |', '[x](javascript:alert(1))',
                                   '猫', '🐈\u200d⬛', 'e\u0301', '\u202eevil', '$\\frac$', '%s {0} {x}', '`rm`', '---', 'nan', 'None', 'n01440764', 'train', 'val', 'a'*300, '\ud800', '\udcff', '\u2028']), st.text(max_size=8))
NUMBERS = st.one_of(st.integers(-3, 12), st.sampled_from([2**31 - 1, 2**31, 2**63, -2**63, 10**30, 0.0, -0.0, 0.5, 1.0, 1e-12, 1e30, 1e400, -1.5, float('nan')]))
JSON = st.recursive(st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS), lambda v: st.one_of(st.lists(v, max_size=4), st.dictionaries(TEXTS, v, max_size=3)), max_leaves=6)
NAMES = st.one_of(TEXTS, st.binary(min_size=1, max_size=6).map(os.fsdecode)).map(lambda s: re.sub('[/\0\ud800-\udc7f\udd00-\udfff]', '', s)[:40]).filter(lambda s: s not in ('', '.', '..'))

def change(data, blob):
    "Bytes with some of them cut off, flipped, doubled, put in front or at the end."
    b = bytearray(blob); how = data.draw(st.sampled_from(['cut', 'flip', 'flip', 'zero', 'end', 'front', 'middle']))
    at = data.draw(st.integers(0, max(0, len(b) - 1)))
    if how == 'cut': return bytes(b[:at])
    if how == 'flip' and b:
        for k in data.draw(st.lists(st.integers(0, len(b) - 1), min_size=1, max_size=4)): b[k] ^= data.draw(st.integers(1, 255))
    if how == 'zero': b[at:at + 8] = bytes(8)
    if how == 'end': b += data.draw(st.binary(max_size=16))
    if how == 'front': b[:0] = data.draw(st.binary(min_size=1, max_size=16))
    if how == 'middle': del b[at:at + data.draw(st.integers(1, 16))]
    return bytes(b)

def replace(data, value):
    "A JSON value with one part of it replaced or left out."
    if isinstance(value, (dict, list)) and value and data.draw(st.integers(0, 4)):
        out = type(value)(value); k = data.draw(st.sampled_from(sorted(out) if isinstance(out, dict) else range(len(out))))
        if data.draw(st.integers(0, 4)): out[k] = replace(data, out[k])
        else: del out[k]
        return out
    return data.draw(JSON)


# ---- pictures

def picture(i=0, w=8, h=8, mode='RGB'): return Image.fromarray(np.random.default_rng(i).integers(0, 256, (h, w, 3), dtype=np.uint8)).convert(mode)

def encoded(im, kind, **kw):
    b = io.BytesIO(); im.save(b, kind, **kw); return b.getvalue()

PNG = [encoded(picture(i), 'PNG') for i in range(4)]
MODES = dict(PNG=['RGB', 'RGBA', 'L', 'LA', 'P', '1', 'I;16'], JPEG=['RGB', 'L', 'CMYK'], GIF=['P', 'L', 'RGB'], BMP=['RGB', 'L', 'P', '1'], TIFF=['RGB', 'RGBA', 'CMYK', 'L', 'P', '1', 'I;16', 'F', 'I', 'LAB', 'YCbCr'],
             WEBP=['RGB', 'RGBA'], PPM=['RGB', 'L', '1'], ICO=['RGBA'], TGA=['RGB'], PCX=['L'], JPEG2000=['RGB', 'L'], EPS=['RGB'])

@st.composite
def real_picture(draw):
    "A picture of any format and mode, 1 × 1 to 32 × 32, sometimes a strip; with EXIF of any bytes, transparency, several frames."
    kind = draw(st.sampled_from(sorted(MODES))); mode = draw(st.sampled_from(MODES[kind]))
    w, h = draw(st.one_of(st.tuples(st.integers(1, 32), st.integers(1, 32)), st.sampled_from([(1, 1), (1, 1), (2, 300), (400, 1)])))
    if draw(st.integers(0, 39)) == 17: w, h = 20000, 1
    if mode in ('I;16', 'F', 'I'):
        top = 2**16 if mode == 'I;16' else draw(st.sampled_from([1, 255, 2**30])); a = np.random.default_rng(w).integers(0, top, (h, w))
        im = Image.fromarray(a.astype({'I;16': np.uint16, 'F': np.float32, 'I': np.int32}[mode]))
    else: im = picture(h, w, h).convert(mode)
    kw = {}
    if kind in ('PNG', 'JPEG', 'WEBP') and draw(st.booleans()):
        exif = Image.Exif(); exif[0x0112] = draw(st.sampled_from([0, 1, 3, 6, 8, 9, 255, 65535])); kw['exif'] = draw(st.one_of(st.just(exif.tobytes()), st.binary(max_size=40).map(lambda b: b'Exif\0\0' + b)))
    if kind == 'PNG' and mode == 'P' and draw(st.booleans()): kw['transparency'] = draw(st.one_of(st.integers(0, 255), st.binary(min_size=1, max_size=4)))
    if kind in ('GIF', 'WEBP', 'TIFF', 'PNG') and mode in ('RGB', 'RGBA') and draw(st.booleans()): kw |= dict(save_all=True, append_images=[picture(9, w, h, mode)]*draw(st.integers(1, 3)))
    try: return encoded(im, kind, **kw)
    except (OSError, ValueError, KeyError, TypeError, struct.error): return encoded(im.convert('RGB'), 'PNG')

def _chunk(kind, body): return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

@st.composite
def bomb(draw):
    "A header that promises more than there is, or than fits in memory."
    side = st.sampled_from([0, 1, 7, 65535, 2**31 - 1, 60000]); w, h = draw(side), draw(side); bits = draw(st.sampled_from([1, 8, 16]))
    return draw(st.sampled_from([
        b'\x89PNG\r\n\x1a\n' + _chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, bits, draw(st.sampled_from([0, 2, 3, 4, 6])), 0, 0, 0)) + _chunk(b'IDAT', zlib.compress(bytes(64))) + _chunk(b'IEND', b''),
        b'BM' + struct.pack('<IHHIIiiHHIIIIII', 70, 0, 0, 54, 40, w, h, 1, 24, 0, 16, 0, 0, 0, 0) + bytes(16), b'P6\n%d %d\n255\n' % (w, h) + bytes(30), b'P4 %d %d\n' % (w, h),
        b'GIF89a' + struct.pack('<HHBBB', w & 65535, h & 65535, 0x80, 0, 0) + bytes(6) + b',' + struct.pack('<HHHHB', 0, 0, w & 65535, h & 65535, 0) + b'\x02\x02\x4c\x01\0;',
        b'II*\0\x08\0\0\0\x04\0' + b''.join(struct.pack('<HHII', t, 4, 1, v) for t, v in ((256, w), (257, h), (273, 8), (279, 2**32 - 1))) + bytes(4),
        b'\xff\xd8\xff\xc0\0\x11\x08' + struct.pack('>HH', h & 65535, w & 65535) + b'\x03\x01\x11\0\x02\x11\0\x03\x11\0\xff\xd9']))

MAGIC = [b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff', b'GIF89a', b'BM', b'II*\0', b'MM\0*', b'RIFF\x10\0\0\0WEBPVP8 ', b'P6\n', b'PK\3\4', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n', b'%PDF-1.4', b'<svg xmlns="x">',
         b'\0\0\0 ftypavif', b'\0\0\0\x0cjP  \r\n\x87\n', b'PAR1', b'']

@st.composite
def any_file(draw):
    "Bytes that may be a picture."
    blob = draw(st.one_of(real_picture(), real_picture(), bomb(), st.tuples(st.sampled_from(MAGIC), st.binary(max_size=48)).map(b''.join)))
    return change(SimpleNamespace(draw=draw), blob) if draw(st.booleans()) else blob

SUFFIX = st.sampled_from(['.png', '.png', '.jpg', '.JPEG', '.gif', '.tiff', '.webp', '.bmp', '.avif', '.txt', ''])

def used(source, size=8): # as a training would
    for x, y in source.train.batches(size, 2): assert x.dtype == torch.uint8 and x.shape[1:] == (3, size, size) and 0 <= y.min() and y.max() < source.n_classes
    assert len(repr(source).splitlines()) == 4 and len(source.train)

@cases(900, 'image files: truncated, bombs, zero bytes, wrong ending, animated, 1×1, 20000×1, palettes, 16 bits, odd EXIF, odd names', blob=any_file(), name=NAMES, suffix=SUFFIX, strict=st.booleans(), alone=st.booleans())
def test_image_files(blob, name, suffix, strict, alone):
    "One strange file among three good ones, or as all that a class has."
    with room() as d:
        for c, n in (('ant', 0 if alone else 2), ('bee', 2)):
            (d/c).mkdir()
            for i in range(n): (d/c/f'{i}.png').write_bytes(PNG[i])
        for i in range(1 + alone): (d/'ant'/f'{i}{name}{suffix}').write_bytes(blob)
        return attempt(lambda: used(open_source(d, size=8, strict=strict)))

def test_the_giants_and_the_pipes(tmp_path):
    "20000 × 1 and 1 × 20000 become squares; a pipe, a device and a link into nowhere are named, not waited for."
    for c in 'ab':
        (tmp_path/c).mkdir(); (tmp_path/c/'0.png').write_bytes(encoded(picture(0, 20000, 1), 'PNG')); (tmp_path/c/'1.jpg').write_bytes(encoded(picture(1, 1, 20000), 'JPEG'))
    os.mkfifo(tmp_path/'a'/'pipe.png'); (tmp_path/'a'/'zero.png').symlink_to('/dev/zero'); (tmp_path/'b'/'gone.png').symlink_to('/no/where'); (tmp_path/'b'/'up').symlink_to(tmp_path)
    with pytest.warns(UserWarning, match='3 unreadable images skipped.*pipe.png.*not a regular file'): s = open_source(tmp_path, size=8)
    used(s)

def test_no_other_program_is_started(tmp_path, monkeypatch):
    "Pillow would run Ghostscript on PostScript of any name."
    import subprocess
    def started(*a, **kw): raise SystemExit(f'started {a}')
    monkeypatch.setattr(subprocess, 'Popen', started); monkeypatch.setattr(os, 'system', started)
    ps = encoded(picture(), 'EPS')
    for c in 'ab':
        (tmp_path/c).mkdir()
        for i in range(2): (tmp_path/c/f'{i}.png').write_bytes(PNG[i])
        (tmp_path/c/'2.png').write_bytes(ps); (tmp_path/c/'3.png').write_bytes(b'%!PS\n(had) (w) file\n')
    with pytest.warns(UserWarning, match='4 unreadable images skipped'): used(open_source(tmp_path, size=8))


# ---- folders

ENTRY = st.one_of(st.integers(0, 3), st.sampled_from(['text', 'link up', 'link out', 'link nowhere', 'link itself', 'parquet', 'deep']))

@cases(400, 'class folders: odd names, empty ones, links, nested parts, stray tables and descriptions', tree=st.lists(st.tuples(NAMES, ENTRY | st.integers(1, 3)), max_size=5), under=st.sampled_from(['', '', 'train', 'val']), more=st.sampled_from(['', '', 'val', 'test']),
       j=st.one_of(st.none(), st.none(), JSON), size=st.one_of(st.just(8), st.just(8), st.none(), NUMBERS), fraction=st.one_of(st.just(.2), st.just(.2), st.just(0), NUMBERS), rename=st.booleans())
def test_class_folders(tree, under, more, j, size, fraction, rename):
    with room() as d:
        root = d/'top'; top = root/'images' if j is not None and rename else root/under; top.mkdir(parents=True)
        if j is not None:
            for n in ('ogm.json', 'dataset_info.json', 'state.json')[:1 + 2*(not rename)]: (root/n).write_text(json.dumps(j))
        for k, (name, what) in enumerate(tree):
            p = top/name
            if os.path.lexists(p): continue
            if what == 'text': p.write_text('x')
            elif what == 'parquet': p.with_name(p.name + '.parquet').write_bytes(b'PAR1')
            elif isinstance(what, str) and what.startswith('link'): p.symlink_to({'up': '..', 'out': BASE, 'nowhere': 'none', 'itself': name}[what[5:]])
            else:
                p = p/'x'/'y' if what == 'deep' else p; p.mkdir(parents=True)
                for i in range(2 if what == 'deep' else what): (p/f'{i}.png').write_bytes(PNG[(i + k) % 4])
        if more: (root/more).mkdir(exist_ok=True)
        size = 32 if isinstance(size, (int, float)) and size > 512 else size     # a large size is honest work
        return attempt(lambda: used(open_source(root, size=size, val_fraction=fraction)))


# ---- tables

GOOD = dict(image=('struct', st.fixed_dictionaries(dict(bytes=st.sampled_from(PNG), path=st.none()))), label=('int64', st.integers(0, 1)))
CELL = st.sampled_from([*PNG, b'', b'x', None])
COLUMNS = [*GOOD.values(), ('struct', st.one_of(st.none(), st.fixed_dictionaries(dict(bytes=CELL, path=st.sampled_from([None, '/etc/passwd', str(BASE/'a.png'), '../a.png', 'a.png']))))),
           ('binary', CELL), ('string struct', st.fixed_dictionaries(dict(bytes=st.sampled_from(['/etc/passwd', '', 'x']), path=st.just(1)))), ('int64', st.one_of(st.integers(0, 2), st.sampled_from([None, -1, 10**12, 2**63 - 1]))),
           ('uint64', st.sampled_from([0, 1, 2**64 - 1])), ('int8', st.integers(-1, 1)), ('string', st.one_of(st.none(), st.sampled_from(['cat', 'dog', 'two\nlines', '<b>', '']))), ('string', st.sampled_from(['cat', 'dog'])),
           ('float64', st.sampled_from([0., 1., float('nan')])), ('bool', st.booleans()), ('null', st.none()), ('list', st.just([0, 1])), ('dictionary', st.sampled_from(['cat', 'dog']))]
TYPES = {'struct': pa.struct([('bytes', pa.binary()), ('path', pa.string())]), 'string struct': pa.struct([('bytes', pa.string()), ('path', pa.int64())]), 'list': pa.list_(pa.int64()), 'dictionary': pa.dictionary(pa.int32(), pa.string())}
TITLES = ['image', 'image', 'img', 'label', 'label', 'class_id', 'x\ny', 'bytes', '__index_level_0__', '']
LABELS = [dict(names=n, _type='ClassLabel') for n in (['ant', 'bee'], ['a', 'a'], [], [1, 'two\nlines'], 'ab', None)] + [dict(dtype='int64', _type='Value'), dict(_type='Hologram')]
META = st.one_of(st.none(), JSON.map(json.dumps), st.binary(max_size=8), st.sampled_from(LABELS).map(lambda l: json.dumps(dict(info=dict(features=dict(image=dict(_type='Image'), label=l))))))

@st.composite
def table(draw):
    "Bytes of a parquet file with columns of any names and types, mostly near to a right one."
    n, usual = draw(st.integers(0, 6)), draw(st.integers(0, 3)); cols = {}
    for t in ['image', 'label'] if usual else draw(st.lists(st.sampled_from(TITLES), max_size=3, unique=True)):
        kind, cell = GOOD[t] if usual and draw(st.integers(0, 2)) else draw(st.sampled_from(COLUMNS))
        cols[t] = pa.array([draw(cell) for _ in range(n)], TYPES.get(kind) or pa.type_for_alias(kind))
    t = pa.table(cols); meta = draw(META)
    if meta is not None: t = t.replace_schema_metadata({'huggingface': meta})
    b = io.BytesIO(); pq.write_table(t, b); return b.getvalue()

@cases(500, 'parquet tables: missing or mistyped columns, nulls, wrong labels, hostile metadata, changed bytes', data=st.data(), train=table(), val=st.one_of(st.none(), table()), name=NAMES)
def test_tables(data, train, val, name):
    if not data.draw(st.integers(0, 3)): train = change(data, train)
    with room() as d:
        (d/f'train{name}.parquet').write_bytes(train)
        if val is not None: (d/'test.parquet').write_bytes(val)
        return attempt(lambda: used(open_source(d if val is not None else next(d.glob('*.parquet')), size=8)))

def test_a_path_in_a_table_is_not_followed(tmp_path):
    (tmp_path/'private.png').write_bytes(PNG[0])
    for b, says in ((None, 'without an image'), (b'', 'no readable image')):
        pq.write_table(pa.table(dict(image=pa.array([dict(bytes=b, path=str(tmp_path/'private.png'))]*4, TYPES['struct']), label=[0, 1]*2)), tmp_path/'t.parquet')
        with pytest.raises(OgmError, match=says), warnings.catch_warnings(): warnings.simplefilter('ignore'); open_source(tmp_path/'t.parquet')

def test_nothing_of_the_hub_is_executed(monkeypatch):
    "Neither by a new version of `datasets`, which cannot, nor by an old one, which asks the user."
    datasets = pytest.importorskip('datasets'); asked = []; good = datasets.Dataset.from_dict(dict(image=[dict(bytes=b, path=None) for b in PNG], class_id=[0, 1, 0, 1]))
    def new(path, name=None, **config): asked.append(config); return datasets.DatasetDict(train=good)
    def old(path, name=None, trust_remote_code=None, **config): asked.append((trust_remote_code, config)); return datasets.DatasetDict(train=good)
    for fake in (new, old):
        monkeypatch.setattr(datasets, 'load_dataset', fake); monkeypatch.setattr(datasets, 'load_dataset_builder', lambda *a, **kw: fake(*a, **kw) and SimpleNamespace(config=SimpleNamespace(data_files={'train': ['x.py']})))
        used(open_source('hf:someone/something:strange'))
    assert asked == [{}, {}, (False, {}), (False, {})]


# ---- settings and recipes

def _options(cls): return st.dictionaries(st.sampled_from([f for f in cls.__dataclass_fields__]), st.one_of(NUMBERS, TEXTS, JSON, st.sampled_from(['kernel', 'mean', 'sum', 'factor', 'muon', 'sgd', 'step', 'ns', 'always', (0.5, 0.9), (1, 0), [.2, .3], True, False, None])), max_size=3)

@cases(300, 'settings of a synthesis', kw=_options(Settings))
def test_settings(kw):
    def use():
        s = Settings(**kw); assert s == Settings(**vars(s)) and s.iters >= 0 and s.lr > 0 and len(s.scale) == len(s.betas) == 2
        if s.batch < 100 and kw.get('lr', 0) != 1e-12: distill(SOURCE, TEACHER, START, target=None, device='cpu', **vars(s) | dict(iters=min(s.iters, 1)))
    return attempt(use)

@cases(300, 'recipes', name=st.one_of(st.sampled_from(sorted(RECIPES)), st.sampled_from(sorted(RECIPES)), TEXTS, JSON), kw=_options(Recipe))
def test_recipes(name, kw):
    def use():
        r = get_recipe(name, **kw); assert all(0 <= lr_factor(r, t) < 10 for t in (0, .3, .999))
        with seeded(0, 'net'): net = build('convnet1-w4', 2, 8)
        train(net, SOURCE.train, r, mean=(.5,)*3, std=(.5,)*3, size=8, max_steps=1, device='cpu', factor=2)
    return attempt(use)


# ---- the command line

def _small():
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)); s = Split.from_tensor(x, [0, 1]*6, ['ant', 'bee'])
    with seeded(0, 'net'): net = build('convnet1-w4', 2, 8)
    return Source('small', s, s.subset(range(4)), 8), Teacher(net, 'convnet1-w4', 8, (.5,)*3, (.25,)*3, ['ant', 'bee'], None, .5), DistilledSet(x[:2], torch.tensor([0, 1]), ['ant', 'bee'], None, (.5,)*3, (.25,)*3, 1, dict(data='digits', arch='convnet1-w4'))

SOURCE, TEACHER, START = _small()
WORDS = st.one_of(st.sampled_from(['-1', '0', '1', '2', '3', '9', '1e3', '0.5', 'nan', 'inf', '-inf', '1e400', '99999999999999999999', '0x10', '١', 'true', 'cpu', 'cuda', 'cuda:99', 'meta', 'kernel', 'channel', 'rded', 'random', 'noise', 'hard', 'soft', 'sgd', 'muon', 'ogm-basic', 'convnet1-w2',
                                   'convnet1-w2-ln', 'convnet9', 'convnet99-w9999', 'resnet18.', 'torchvision:', 'torchvision:resnet18.X', 'torchvision:raft_small', 'hf:', 'hf:a/b', 'https://x.org', 'digits', '.', '..', '/', '/dev/null', '-h', '--', '--ipc', '=']), TEXTS)
OPTIONS = ['--ipc', '--arch', '--teacher', '--init', '--factor', '--batch', '--lr', '--gamma', '--view', '--eps', '--size', '--seed', '--every', '--device', '--data', '--recipe', '--labels', '--images', '--classes', '--other', '--nonsense']

@cases(250, 'words of the command line', command=st.sampled_from(['distill', 'distill', 'distill', 'evaluate', 'train', 'show']), words=st.lists(st.tuples(st.sampled_from(OPTIONS), WORDS), max_size=2), flags=st.lists(st.sampled_from(['--strict', '--overwrite', '--resume', '--no-orthogonal', '--no-history', '--x']), max_size=1))
def test_command_lines(command, words, flags):
    "Exit code 0, or 2 with one line; 1 would be an error of ours."
    with room() as d:
        for c in ('ant', 'bee'):
            (d/'pets'/c).mkdir(parents=True)
            for i in range(3): (d/'pets'/c/f'{i}.png').write_bytes(PNG[i])
        TEACHER.save(d/'t.safetensors'); first = dict(distill=['--data', d/'pets', '--out', d/'run', '--ipc', 1, '--teacher', d/'t.safetensors', '--iters', 1], evaluate=[d/'run', '--seeds', 1, '--epochs', 1], show=[d/'run', '--out', d/'p.png'],
                                                      train=['--data', d/'pets', '--epochs', 1, '--arch', 'convnet1-w2', '--out', d/'net'])[command]
        if command in ('evaluate', 'show'): START.config = dict(data=str(d/'pets'), arch='convnet1-w2'); START.save(d/'run')
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try: code = main([command, *map(str, first), '--device', 'cpu', *(w for pair in words for w in pair), *flags])
            except SystemExit as e: assert e.code == 0 and '-h' in str(words); return 'result'
        lines = [l for l in err.getvalue().splitlines() if not l.startswith('ogm: warning: ')]
        assert code in (0, 2) and len(lines) == (code == 2) and all(l.startswith('ogm: ') for l in lines), (code, err.getvalue())
        return 'refused' if code else 'result'


# ---- a finished set that was tampered with

@pytest.fixture(scope='module', autouse=True)
def _finished_set():
    START.save(BASE/'set'); TEACHER.save(BASE/'teacher.safetensors')

@cases(400, 'finished sets: ogm.json and parquet with parts replaced, left out, or bytes changed', data=st.data(), which=st.sampled_from(['json', 'json', 'json bytes', 'parquet', 'parquet bytes']))
def test_finished_sets(data, which):
    with room() as d:
        shutil.copytree(BASE/'set', d/'run'); j, p = d/'run'/'ogm.json', d/'run'/'data'/'train.parquet'
        if which == 'json': j.write_text(json.dumps(replace(data, json.loads(j.read_text()))))
        if which == 'json bytes': j.write_bytes(change(data, j.read_bytes()))
        if which == 'parquet': p.write_bytes(data.draw(table()))
        if which == 'parquet bytes': p.write_bytes(change(data, p.read_bytes()))
        def use():
            attempt(lambda: used(open_source(d/'run', size=8)))
            ds = DistilledSet.load(d/'run'); repr(ds); ds.save(d/'again'); again = DistilledSet.load(d/'again')
            assert torch.equal(ds.images, again.images) and ds.classes == again.classes and len(ds.split) == len(ds) > 0 and TEACHER.normalize(ds.images).isfinite().all()
        return attempt(use)


# ---- weights

WEIGHTS = to_bytes({k: v.contiguous() for k, v in TEACHER.net.state_dict().items()}, {'meta': json.dumps(TEACHER._meta())})

def _lying(data):
    "A safetensors file whose header says something else than the file holds."
    n = struct.unpack('<Q', WEIGHTS[:8])[0]; head, body = json.loads(WEIGHTS[8:8 + n]), WEIGHTS[8 + n:]
    if data.draw(st.booleans()):
        meta = json.loads(head['__metadata__']['meta']); meta = replace(data, meta) if data.draw(st.booleans()) else meta | {data.draw(st.sampled_from(sorted(meta))): data.draw(st.one_of(NUMBERS, TEXTS, st.sampled_from(['convnet9', 'convnet99-w9999', 'vit_b_16', [0, 9], [1, 0], [0.5]*3, [0.]*3])))}
        head['__metadata__'] = {'meta': json.dumps(meta)}
    else:
        k = data.draw(st.sampled_from(sorted(head.keys() - {'__metadata__'}))); part = data.draw(st.sampled_from(['dtype', 'shape', 'data_offsets', 'all']))
        if part == 'all': head = replace(data, head)
        else: head[k] = head[k] | {part: data.draw(dict(dtype=st.sampled_from(['F64', 'BOOL', 'I64', 'F8_E4M3', 'BF16', 'C64', 'X', 'F4']), shape=st.lists(st.integers(0, 2**40), max_size=4), data_offsets=st.lists(st.integers(0, 2**62), max_size=3))[part])}
    h = json.dumps(head).encode(); size = data.draw(st.sampled_from([len(h), len(h), len(h), len(h), 0, len(h) + 1, 2**31, 2**63, 2**64 - 1]))
    return struct.pack('<Q', size) + h + body

@cases(300, 'safetensors: headers that lie about sizes, types, places, classes and networks', data=st.data(), how=st.sampled_from(['lie', 'lie', 'lie', 'bytes', 'other']))
def test_weights(data, how):
    with room() as d:
        (d/'t.safetensors').write_bytes(_lying(data) if how == 'lie' else change(data, WEIGHTS) if how == 'bytes' else data.draw(st.binary(max_size=40)))
        attempt(load_tensors, d/'t.safetensors')
        def use(): t = load_teacher(d/'t.safetensors', SOURCE); assert t(t.normalize(SOURCE.train.images)).shape == (12, 2)
        return attempt(use)

class Trap:
    "What a pickle would call when it is read."
    def __init__(self, f, *args): self.call = f, args
    def __reduce__(self): return self.call

HAD = BASE/'room'/'had'
TRAPS = [Trap(os.system, f"touch '{HAD}'"), Trap(eval, f"open({str(HAD)!r}, 'w')"), Trap(exec, f"open({str(HAD)!r}, 'w')"), Trap(os.mkdir, str(HAD)), Trap(__import__, 'antigravity'), Trap(compile, '1', 'x', 'eval'), Trap(pickle.loads, pickle.dumps(Trap(os.mkdir, str(HAD)))), Trap(shutil.rmtree, str(BASE/'beside'))]

@cases(100, 'pickles with code in files of weights', data=st.data(), trap=st.sampled_from(TRAPS), protocol=st.integers(0, 5), box=st.sampled_from(['pickle', 'torch', 'old torch', 'changed']), where=st.sampled_from(['itself', 'state_dict', 'weight', 'name', 'list']),
       suffix=st.sampled_from(['.pth', '.pt', '.safetensors', '.bin', '.ckpt']))
def test_pickles(data, trap, protocol, box, where, suffix):
    "The code in it is never run, whatever it is wrapped in; the checkpoint of a training is such a file, too."
    o = dict(itself=trap, state_dict=dict(state_dict=trap, key='x'), weight={'fc.weight': trap, 'key': trap}, name={(1, 2): trap}, list=[torch.zeros(2), trap])[where]
    with room() as d:
        f = d/f'net{suffix}'
        if box == 'pickle': f.write_bytes(pickle.dumps(o, protocol))
        else: torch.save(o, f, pickle_protocol=max(protocol, 2), _use_new_zipfile_serialization=box != 'old torch')
        if box == 'changed': f.write_bytes(change(data, f.read_bytes()))
        out = {attempt(load_teacher, f, arch='convnet1-w4', size=8, classes=['ant', 'bee']), attempt(_resume, f, type('Job', (), dict(device='cpu')), None, 'key')}
        assert not HAD.exists() and (BASE/'beside'/'images').is_dir()
        assert out == {'refused'}; return out.pop()


# ---- what is written

def _plain(text): return html.unescape(re.sub(r'\\(.)', r'\1', text))

@cases(200, 'class names in the card, in folders and in the parquet file', False, names=st.lists(TEXTS, min_size=2, max_size=4), ids=st.booleans(), title=TEXTS)
def test_names_in_what_is_written(names, ids, title):
    "No name becomes markup, a path, or another line; each can be read back."
    names = Split([0], [*dict.fromkeys(names), 'one', 'two'][:max(2, len(set(names)))]).classes; n = len(names)
    ds = DistilledSet(START.images[:1].repeat(n, 1, 1, 1), torch.arange(n), names, names if ids else None, (.5,)*3, (.5,)*3, 1, dict(source=names[0], data=names[1], more=1))
    text = card(ds, Split([0], [title]).classes[0]); yaml_, body = text.split('\n---\n', 1)
    head = json.loads(yaml_.removeprefix('---\n')); assert head['configs'][0]['data_files'] == [dict(split='train', path='data/train.parquet')]
    rows = [r for r in body.splitlines() if re.match(r'\| \d', r)]; assert len(rows) == n
    for r, c in zip(rows, names):
        cells = re.split(r'(?<!\\)(?:\\\\)*\|', r); assert len(cells) == 5 and _plain(cells[2]).strip() == ' '.join(c.split())
    out = re.sub(r'~~~.*?~~~', '', body, flags=re.S); out = re.sub(r'`[^`\n]*`', '', out); assert not re.search(r'[<>]|(?<!\\)`', out) and not re.search(r'(?<![\\!])\[(?![\d.-])', out)
    folders = [folder_name(i, c) for i, c in enumerate(names)]; assert all(re.fullmatch(r'\d{5}_[\w-]{1,60}', f) for f in folders) and folders == sorted(folders)
    if not ids:
        with room() as d:
            ds.save(d/'run'); back = DistilledSet.load(d/'run'); assert back.classes == names and open_source(d/'run', size=8).classes == names
            assert {p.name for p in d.iterdir()} == {'run'} and {p.name for p in (d/'run').iterdir()} == {'ogm.json', 'images', 'data', 'README.md', 'preview.png'}
    return 'result'


if __name__ == '__main__':
    import time
    from ogm.core import provenance, write_json
    start = time.monotonic(); code = pytest.main([__file__, '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist'])
    counts = sys.modules['test_hostile'].COUNTS; rows = [dict(test=k, what=v['what'], cases=v['count'].total(), results=v['count']['result'], refused=v['count']['refused']) for k, v in counts.items()]
    if code == 0: write_json(sys.argv[1], provenance(rows=rows, cases=sum(r['cases'] for r in rows), cpu_seconds=round(time.process_time()), seconds=round(time.monotonic() - start)))
    sys.exit(code)
