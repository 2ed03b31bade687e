"Opening real and broken sources: every mistake ends in one line that names the culprit."
import io, json, os, signal, warnings
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
import pyarrow as pa, pyarrow.parquet as pq
from PIL import Image
import ogm.data as data
from ogm.core import OgmError, rng
from ogm.data import Source, Split, decode, open_source, stratified, to_rgb


def picture(i=0, size=(12, 10), mode='RGB'):
    "A picture of noise, (width, height), different for each i."
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)

def png(i=0, **kw):
    b = io.BytesIO(); picture(i, **kw).save(b, 'PNG'); return b.getvalue()

def folder(root, classes=('cat', 'dog'), n=4, **kw):
    "Class folders of n pictures each."
    for k, c in enumerate(classes):
        (root/c).mkdir(parents=True, exist_ok=True)
        for i in range(n): (root/c/f'{i}.png').write_bytes(png(100*k + i, **kw))
    return root

def table(path, meta=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True); t = pa.table(columns)
    pq.write_table(t.replace_schema_metadata(meta) if meta else t, path); return path

def cells(n, start=0): return [{'bytes': png(start+i), 'path': None} for i in range(n)]

def fails(*words, f=open_source, **kw):
    "Call must raise `OgmError` in one line that holds all words."
    def call(*args):
        with pytest.raises(OgmError) as e: f(*args, **kw)
        text = str(e.value)
        assert '\n' not in text and 'Traceback' not in text
        for w in words: assert str(w) in text, text
    return call

def told(f, *args, **kw):
    "(result, warnings as text)"
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always'); out = f(*args, **kw)
    return out, [str(x.message) for x in w if x.category is UserWarning]

def pixels(split): return {x.numpy().tobytes(): split.classes[y] for x, y in split}


# ---- images

@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'CMYK', 'RGBA', 'LA', '1', 'YCbCr', 'HSV', 'RGBX', 'LAB', 'I', 'F', 'PA', 'RGBa'])
def test_any_mode_becomes_rgb(mode):
    x = to_rgb(Image.new(mode, (5, 3)))
    assert x.dtype == torch.uint8 and x.shape == (3, 3, 5) and x.is_contiguous()

@pytest.mark.parametrize('mode', ['L', 'CMYK', 'RGBA', 'YCbCr', 'LA'])
def test_grey_keeps_its_value_in_every_mode(mode):
    x = to_rgb(Image.new('L', (2, 2), 90).convert(mode) if mode != 'LA' else Image.new('LA', (2, 2), (90, 255)))
    assert (x.int() - 90).abs().max() <= 2

@pytest.mark.parametrize('suffix', ['png', 'tiff'])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    a = np.array([[0, 257, 25700, 65535]], dtype=np.uint16); f = tmp_path/f'deep.{suffix}'; Image.fromarray(a).save(f)
    assert decode(f, 'deep')[0, 0].tolist() == [0, 1, 100, 255]
    assert to_rgb(Image.fromarray(a.astype(np.int32)))[0, 0].tolist() == [0, 1, 100, 255]

def test_float_images():
    assert to_rgb(Image.fromarray(np.array([[0, .5, 1]], dtype=np.float32)))[0, 0].tolist() == [0, 128, 255]
    assert to_rgb(Image.fromarray(np.array([[0, 100, 300, np.nan]], dtype=np.float32)))[0, 0].tolist() == [0, 100, 255, 0]

def test_transparency_is_laid_on_white(tmp_path):
    im = Image.new('RGBA', (2, 1), (0, 0, 0, 255)); im.putpixel((1, 0), (0, 0, 0, 0)); im.save(tmp_path/'a.png')
    assert decode(tmp_path/'a.png', 'a')[0, 0].tolist() == [0, 255]
    p = Image.new('P', (2, 1)); p.putpalette([10, 20, 30, 200, 0, 0]); p.putpixel((1, 0), 1); p.save(tmp_path/'p.png', transparency=1)
    assert decode(tmp_path/'p.png', 'p')[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]

def test_exif_rotation_and_broken_exif(tmp_path):
    im = picture(size=(12, 10)); exif = Image.Exif(); exif[0x0112] = 6; im.save(tmp_path/'r.jpg', exif=exif)
    assert decode(tmp_path/'r.jpg', 'r').shape == (3, 12, 10)
    im.save(tmp_path/'b.jpg', exif=b'Exif\0\0MM\0*garbage')
    assert decode(tmp_path/'b.jpg', 'b').shape == (3, 10, 12)

def test_first_frame_of_an_animation(tmp_path):
    a, b = Image.new('RGB', (3, 3), (255, 0, 0)), Image.new('RGB', (3, 3), (0, 0, 255))
    a.save(tmp_path/'x.gif', save_all=True, append_images=[b])
    assert decode(tmp_path/'x.gif', 'x')[:, 0, 0].tolist() == [255, 0, 0]

def test_decompression_bomb_is_a_named_skip(tmp_path, monkeypatch):
    folder(tmp_path); (tmp_path/'cat'/'bomb.png').write_bytes(png(9, size=(300, 300)))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    s, w = told(open_source, tmp_path)
    assert len(w) == 1 and 'bomb.png' in w[0] and len(s.train) + len(s.val) == 8

def test_panorama_needs_no_giant_buffer():
    x = data.fit_square(torch.zeros(3, 2, 200_000, dtype=torch.uint8), 224)
    assert x.shape == (3, 224, 224)


# ---- splits

def test_digits():
    s = open_source('digits')
    assert len(s.train) + len(s.val) == 1797 and s.size == 8 and s.classes == list('0123456789') and s.ids is None
    assert s.train.images.max() == 255 and s.train.images.min() == 0 and 'digits' in repr(s) and '8×8' in repr(s)
    again, other = open_source('digits'), open_source('digits', seed=1)
    assert torch.equal(again.val.images, s.val.images) and not torch.equal(other.val.labels, s.val.labels)
    assert not set(pixels(s.train)) & set(pixels(s.val)) and open_source(s) is not s and open_source(s, size=16).size == 16

def test_global_randomness_is_untouched(tmp_path, monkeypatch):
    folder(tmp_path); monkeypatch.setattr(data, 'CHECKED', 0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    s = open_source(tmp_path); s.train.sample(2); list(s.train.batches(8, 2, workers=0))
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()

def test_stratified_keeps_one_and_is_independent_of_other_classes():
    y = torch.tensor([0]*2 + [1]*10 + [2]*5); x = torch.arange(17, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    tr, va = stratified(Split.from_tensor(x, y, ['a', 'b', 'c']), .9)
    assert tr.labels.bincount().tolist() == [1, 1, 1] and va.labels.bincount().tolist() == [1, 9, 4]
    _, vb = stratified(Split.from_tensor(x[2:12], y[2:12]-1, ['b']), .5); _, vc = stratified(Split.from_tensor(x, y, ['a', 'b', 'c']), .5)
    assert torch.equal(vb.images, vc.subset(vc.indices(1)).images)

def test_batches_keep_order_with_any_number_of_workers(tmp_path, monkeypatch):
    folder(tmp_path)
    for i in range(4): (tmp_path/'cat'/f'{i}.png').write_bytes(png(i, size=(12+i, 10)))
    whole = open_source(tmp_path, size=6, val_fraction=0).train; want = whole.tensor(6)
    monkeypatch.setattr(data, 'CHECKED', 0); lazy = open_source(tmp_path, size=6, val_fraction=0).train
    assert lazy.lazy and not lazy._cache
    idx = [7, 0, 3, 3, 5]
    for workers in (0, 2):
        got = list(lazy.batches(6, 2, idx, workers=workers))
        assert [len(x) for x, _ in got] == [2, 2, 1]
        assert torch.equal(torch.cat([x for x, _ in got]), want[idx]) and torch.equal(torch.cat([y for _, y in got]), whole.labels[idx])
    assert torch.equal(lazy.subset(idx).tensor(6), want[idx]) and lazy.subset([2]).read(0).shape == (3, 10, 14)
    assert list(lazy.batches(6, 2, [])) == []

@pytest.mark.parametrize('workers', [0, 1])
def test_broken_file_in_a_large_set_stops_by_name(tmp_path, monkeypatch, workers):
    folder(tmp_path); (tmp_path/'dog'/'2.png').write_bytes(png(1)[:60]); monkeypatch.setattr(data, 'CHECKED', 0); monkeypatch.setattr(data, 'MEMORY', 1000)
    s = open_source(tmp_path, val_fraction=0)
    fails('dog/2.png', 'not a readable image', f=lambda: list(s.train.batches(8, 4, workers=workers)))()
    with pytest.raises(OgmError, match='use batches'): s.train.tensor(64)
    monkeypatch.setattr(data, 'MEMORY', 10**6); fails('dog/2.png', f=s.train.tensor)(8)

def test_sample_is_balanced_and_seeded():
    s = open_source('digits').train; a, b = s.sample(3, seed=5), s.sample(3, seed=5)
    assert torch.equal(a.images, b.images) and a.labels.tolist() == list(range(10))*3 and len(pixels(a)) == 30
    fails('ipc is 1000', 'class', f=s.sample)(1000); fails('ipc is 0', f=s.sample)(0)

def test_from_tensor_says_what_does_not_fit():
    x = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    fails('float32', f=Split.from_tensor)(x.float(), [0, 1], ['a', 'b']); fails('2 images', '3 labels', f=Split.from_tensor)(x, [0, 1, 0], ['a', 'b'])
    fails('label -1', f=Split.from_tensor)(x, [0, -1], ['a', 'b'])

@pytest.mark.parametrize('side, size', [((8, 8), 8), ((64, 64), 64), ((100, 100), 64), ((300, 500), 224), ((130, 224), 128), ((20, 24), 20), ((40, 33), 32)])
def test_suggested_size(side, size):
    s = Split.from_tensor(torch.zeros(2, 3, *side, dtype=torch.uint8), [0, 1], ['a', 'b'])
    assert Source('x', s, s).size == size


# ---- folders

def test_image_folder_with_parts(tmp_path):
    folder(tmp_path/'train', n=5); folder(tmp_path/'val', n=2); folder(tmp_path/'test', n=3)
    s = open_source(tmp_path)
    assert (len(s.train), len(s.val), s.classes, s.train.lazy) == (10, 4, ['cat', 'dog'], False)
    assert s.train[0][0].shape == (3, 10, 12) and [y for _, y in s.train] == [0]*5 + [1]*5

@pytest.mark.parametrize('name', ['validation', 'test', 'Val', 'dev', 'Testing', 'eval'])
def test_names_of_the_validation_part(tmp_path, name):
    folder(tmp_path/'train'); folder(tmp_path/name, n=3); assert len(open_source(tmp_path).val) == 6

def test_class_called_train(tmp_path):
    s = open_source(folder(tmp_path, ['bus', 'car', 'train'])); assert s.classes == ['bus', 'car', 'train'] and len(s.val) == 3

def test_parts_are_not_taken_for_classes(tmp_path):
    folder(tmp_path/'a'/'train'); folder(tmp_path/'a'/'val', n=3); folder(tmp_path/'a'/'predict', ['x']); s, w = told(open_source, tmp_path/'a')
    assert (s.classes, len(s.train), len(s.val)) == (['cat', 'dog'], 8, 6) and len(w) == 1 and 'predict left out' in w[0]
    for parts in (['train', 'predict'], ['seg_train', 'seg_test'], ['val', 'test']):
        for k in parts: folder(tmp_path/parts[0]/k)
        s, w = told(open_source, tmp_path/parts[0]); assert s.classes == sorted(parts) and len(w) == 1 and 'is taken for a class' in w[0]

def test_classes_without_validation_images(tmp_path):
    folder(tmp_path/'train', ['ant', 'bee', 'cow']); folder(tmp_path/'val', ['ant', 'cow']); s, w = told(open_source, tmp_path); assert s.val.labels.bincount().tolist() == [4, 0, 4]
    assert len(w) == 1 and "no image of 1 of 3 classes, e.g. 'bee'" in w[0]

def test_wordnet_ids_match_across_names(tmp_path):
    folder(tmp_path/'train', ['n01440764_tench', 'n01443537_gold_fish']); folder(tmp_path/'val', ['n01440764', 'n01443537'], n=2)
    s = open_source(tmp_path)
    assert s.classes == ['tench', 'gold fish'] and s.ids == ['n01440764', 'n01443537'] and s.val.labels.tolist() == [0, 0, 1, 1] and 'n01443537' in repr(s)

def test_same_id_twice_does_not_merge_classes(tmp_path):
    s = open_source(folder(tmp_path, ['n01440764_a', 'n01440764_b'])); assert s.ids is None and s.n_classes == 2 and len(s.train.indices(0)) == 3

def test_clutter_is_passed_over(tmp_path):
    folder(tmp_path); (tmp_path/'.hidden').mkdir(); (tmp_path/'__MACOSX').mkdir(); (tmp_path/'cat'/'._0.png').write_text('x')
    (tmp_path/'cat'/'notes.txt').write_text('x'); (tmp_path/'cat'/'Thumbs.db').write_text('x'); (tmp_path/'README.md').write_text('x')
    s, w = told(open_source, tmp_path); assert len(s.train) + len(s.val) == 8 and not w

def test_what_a_user_would_miss(tmp_path):
    folder(tmp_path/'pets'); [(tmp_path/'pets'/'cat'/n).write_bytes(b'x') for n in ('a.HEIC', 'b.dng', '._c.heic')]; (tmp_path/'pets'/'cat'/'more').symlink_to(folder(tmp_path/'old')/'dog')
    s, w = told(open_source, tmp_path/'pets'); assert len(s.train) + len(s.val) == 8 and len(w) == 2
    assert "not followed (1, e.g. cat/more)" in w[0] and 'left out (2, e.g. cat/a.HEIC)' in w[1]

@pytest.mark.skipif(os.name != 'posix', reason='there names are text')
def test_names_that_are_no_text(tmp_path):
    folder(tmp_path/'pets')
    try: os.rename(tmp_path/'pets'/'cat'/'0.png', os.fsencode(tmp_path/'pets'/'cat') + b'/\xff.png')
    except OSError: pytest.skip('this file system wants text')
    a = open_source(tmp_path/'pets').digest(); os.rename(os.fsencode(tmp_path/'pets'/'cat') + b'/\xff.png', os.fsencode(tmp_path/'pets'/'cat') + b'/\xfe.png'); assert open_source(tmp_path/'pets').digest() != a

def test_unreadable_files_are_named_once_and_labels_stay(tmp_path):
    folder(tmp_path, n=6); good = pixels(open_source(tmp_path, val_fraction=0).train)
    (tmp_path/'cat'/'0.png').write_text('not a picture'); (tmp_path/'cat'/'1.png').write_bytes(b''); (tmp_path/'dog'/'3.png').write_bytes(png(103)[:70])
    s, w = told(open_source, tmp_path, val_fraction=0)
    assert len(w) == 1 and '3 unreadable images' in w[0] and '\n' not in w[0] and all(n in w[0] for n in ('cat/0.png', 'cat/1.png', 'dog/3.png'))
    assert len(s.train) == 9 and all(good[k] == v for k, v in pixels(s.train).items())
    fails('cat/0.png', strict=True)(tmp_path)

def test_unreadable_among_photos_of_different_sizes(tmp_path):
    folder(tmp_path, n=6)
    for i in range(6): (tmp_path/'dog'/f'{i}.png').write_bytes(png(100+i, size=(20+i, 30)))
    whole = open_source(tmp_path, size=8, val_fraction=0).train
    (tmp_path/'cat'/'2.png').write_bytes(b'GIF89a'); s, w = told(open_source, tmp_path, size=8, val_fraction=0)
    assert len(w) == 1 and 'cat/2.png' in w[0] and s.train.lazy
    keep = [0, 1, *range(3, 12)]
    assert torch.equal(s.train.tensor(8), whole.tensor(8)[keep]) and torch.equal(s.train.labels, whole.labels[keep])
    assert s.train[10][0].shape == (3, 30, 25) and 'kept at 8×8' in repr(s.train)

def test_finished_run_opens_as_its_images(tmp_path):
    names = ['00000_zebra', '00001_ant']; folder(tmp_path/'images', names, n=1); (tmp_path/'ogm.json').write_text('{}')
    table(tmp_path/'data'/'train.parquet', image=cells(2), label=[0, 1])
    s = open_source(tmp_path); assert s.classes == ['zebra', 'ant'] and len(s.train) == 2 and len(s.val) == 0
    (tmp_path/'ogm.json').write_text(json.dumps({'classes': ['Zebra!', 'Ant?'], 'ids': ['n02391049', 'n02219486']}))
    s = open_source(tmp_path); assert s.classes == ['Zebra!', 'Ant?'] and s.ids == ['n02391049', 'n02219486']

def test_bad_paths(tmp_path):
    fails('no/such', 'does not exist')('no/such'); fails('web address')('https://example.org/a.zip'); fails("'' is no source")(''); fails('is no source')(3)
    fails(tmp_path.name, 'holds no images')(tmp_path)
    (tmp_path/'a.png').write_bytes(png()); fails('holds 1 images but no class folders')(tmp_path)
    fails('a.png', 'is a file')(tmp_path/'a.png'); fails('size is 0', size=0)('digits'); fails('val_fraction is 1', val_fraction=1)('digits')
    fails("'imagenette'", 'does not exist')('imagenette')

def test_bad_folders(tmp_path):
    fails('only one class', 'cat')(folder(tmp_path/'one', ['cat']))
    (folder(tmp_path/'empty')/'eel').mkdir(); fails('eel', 'class without images')(tmp_path/'empty')
    folder(tmp_path/'single'); (tmp_path/'single'/'eel').mkdir(); (tmp_path/'single'/'eel'/'0.png').write_bytes(png()); fails("'eel'", 'single image')(tmp_path/'single')
    folder(tmp_path/'text'); [f.write_text('x') for f in (tmp_path/'text'/'cat').iterdir()]
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); fails("'cat'", 'no readable image')(tmp_path/'text')
    folder(tmp_path/'extra'/'train'); folder(tmp_path/'extra'/'val', ['cat', 'eel']); fails("'eel'", 'does not occur in the training part')(tmp_path/'extra')

def test_loose_and_unsorted_images_are_mentioned(tmp_path):
    folder(tmp_path/'a'); (tmp_path/'a'/'stray.png').write_bytes(png()); assert 'stray.png' in told(open_source, tmp_path/'a')[1][0]
    folder(tmp_path/'b'/'train'); (tmp_path/'b'/'test').mkdir(); (tmp_path/'b'/'test'/'0.png').write_bytes(png())
    s, w = told(open_source, tmp_path/'b'); assert 'test' in w[0] and len(s.val) == 2

@pytest.mark.skipif(os.name != 'posix' or getattr(os, 'geteuid', lambda: 0)() == 0, reason='needs a user without all rights')
def test_unreadable_directory(tmp_path):
    folder(tmp_path); (tmp_path/'cat').chmod(0)
    try: fails('cannot be read')(tmp_path)
    finally: (tmp_path/'cat').chmod(0o755)


# ---- tables

META = {'huggingface': json.dumps({'info': {'features': {'img': {'_type': 'Image'}, 'fine_label': {'names': ['ant', 'bee'], '_type': 'ClassLabel'}}}})}

def test_parquet_directory_with_names(tmp_path):
    table(tmp_path/'data'/'train-00000-of-00002.parquet', META, img=cells(3), fine_label=[0, 1, 0])
    table(tmp_path/'data'/'train-00001-of-00002.parquet', META, img=cells(2, 50), fine_label=[1, 1])
    table(tmp_path/'data'/'test-00000-of-00001.parquet', META, img=cells(2, 90), fine_label=[1, 0])
    s = open_source(tmp_path); assert (len(s.train), len(s.val), s.classes, s.train.labels.tolist()) == (5, 2, ['ant', 'bee'], [0, 1, 0, 1, 1])
    assert torch.equal(s.train[3][0], decode(png(50), '')) and not s.train.lazy

def test_parquet_of_class_ids_bytes_and_texts(tmp_path):
    a = open_source(table(tmp_path/'a.parquet', image=cells(6), class_id=[0, 1, 2]*2)); assert a.classes == ['0', '1', '2'] and a.ids is None and len(a.val) == 3
    b = open_source(table(tmp_path/'b.parquet', image=[png(i) for i in range(4)], label=['dog', 'cat']*2)); assert b.classes == ['cat', 'dog']
    assert pixels(b.train) | pixels(b.val) == {decode(png(i), '').numpy().tobytes(): ['dog', 'cat'][i % 2] for i in range(4)}
    c = open_source(table(tmp_path/'c.parquet', image=cells(4), label=['n01440764', 'n01443537']*2)); assert c.ids == ['n01440764', 'n01443537']

def test_parquet_metadata_that_does_not_fit_is_done_without(tmp_path):
    s = open_source(table(tmp_path/'a.parquet', {'huggingface': '{"info": {"features": {"x": {"_type": "Hologram"}}}}'}, image=cells(4), label=[0, 1]*2))
    assert s.classes == ['0', '1']

def test_shards_that_number_their_classes_otherwise(tmp_path):
    other = {k: v.replace('"ant", "bee"', '"bee", "ant"') for k, v in META.items()}; assert other != META
    for name, meta in (('same', META), ('plain', None), ('other', other)):
        table(tmp_path/name/'train-0.parquet', META, img=cells(4), fine_label=[0, 1]*2); table(tmp_path/name/'train-1.parquet', meta, img=cells(4, 9), fine_label=[0, 1]*2)
    assert open_source(tmp_path/'same').classes == open_source(tmp_path/'plain').classes == ['ant', 'bee']; fails('train-1.parquet', 'bee, ant', 'or in another order')(tmp_path/'other')

def test_shards_that_are_missing(tmp_path):
    for k in range(2): table(tmp_path/'data'/f'train-0000{k}-of-00003.parquet', META, img=cells(4, 9*k), fine_label=[0, 1]*2)
    s, w = told(open_source, tmp_path); assert len(s.train) + len(s.val) == 8 and len(w) == 1 and "only 2 of 3 files of 'data/train'" in w[0]
    table(tmp_path/'data'/'train-00002-of-00003-9f3a.parquet', META, img=cells(4, 20), fine_label=[0, 1]*2); assert not told(open_source, tmp_path)[1] and not told(open_source, tmp_path/'data'/'train-00000-of-00003.parquet')[1]

def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch):
    datasets, hub = (pytest.importorskip(m) for m in ('datasets', 'huggingface_hub'))
    def gone(*a, **kw): raise ConnectionError('offline')
    monkeypatch.setattr(datasets, 'load_dataset_builder', gone); monkeypatch.setattr(hub.constants, 'HF_HUB_CACHE', str(tmp_path)); fails('offline', 'the network')('hf:org/name')
    copy = tmp_path/'datasets--org--name'/'snapshots'/'ab12'; table(copy/'data'/'train.parquet', META, img=cells(4), fine_label=[0, 1]*2)
    fails('the network', copy)('hf:org/name:plain'); assert open_source(copy).classes == ['ant', 'bee']

def test_labels_that_cannot_be(tmp_path):
    fails('labels reach 3, but no row has 0')(table(tmp_path/'one.parquet', image=cells(6), label=[1, 2, 3]*2))
    fails('has no label column')(table(tmp_path/'floats.parquet', image=cells(4), label=[0., None, 1., 1.], file=['a', 'b', 'a', 'b']))
    assert open_source(table(tmp_path/'other.parquet', image=cells(4), animal=['a', 'b']*2)).classes == ['a', 'b']

def test_saved_datasets(tmp_path):
    datasets = pytest.importorskip('datasets')
    f = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['ant', 'bee']))
    ds = datasets.Dataset.from_dict({'image': cells(6), 'label': [0, 1]*3}, features=f)
    ds.save_to_disk(tmp_path/'one'); datasets.DatasetDict(train=ds, validation=ds.select([4, 1, 2])).save_to_disk(tmp_path/'two')
    one, two = open_source(tmp_path/'one'), open_source(tmp_path/'two')
    assert one.classes == two.classes == ['ant', 'bee'] and (len(one.train), len(one.val)) == (4, 2)
    assert two.val.labels.tolist() == [0, 1, 0] and torch.equal(two.val[0][0], decode(png(4), ''))
    shuffled = datasets.DatasetDict(train=ds.select([5, 0, 3, 2])); shuffled.save_to_disk(tmp_path/'three')
    assert pixels(open_source(tmp_path/'three', val_fraction=0).train) == {decode(png(i), '').numpy().tobytes(): ['ant', 'bee'][i % 2] for i in (5, 0, 3, 2)}

def test_hub_layout_without_network(tmp_path, monkeypatch):
    datasets = pytest.importorskip('datasets'); seen = {}
    def fake(name, config=None, **kw): seen.update(name=name, config=config, kw=kw); return datasets.DatasetDict(train=datasets.Dataset.from_dict({'image': cells(4), 'class_id': [0, 1]*2}))
    monkeypatch.setattr(datasets, 'load_dataset', fake); monkeypatch.setattr(datasets, 'load_dataset_builder', lambda *a, **kw: _builder(train=['hf://datasets/x@1/a.jpg']))
    s = open_source('hf:he-yang/2025-rethinkdc-imagenet-random-ipc-10:plain')
    assert seen == dict(name='he-yang/2025-rethinkdc-imagenet-random-ipc-10', config='plain', kw={}) and s.classes == ['0', '1'] and len(s.train) == 2
    def offline(*a, **kw): raise ConnectionError('no route\nto host')
    monkeypatch.setattr(datasets, 'load_dataset', offline); fails('hf:org/name', 'no route to host')('hf:org/name')

def _builder(**files): return SimpleNamespace(config=SimpleNamespace(data_files=files))

def test_hub_parquet_is_read_where_it_lies(tmp_path, monkeypatch):
    "Downloaded as it is, at its revision, and not copied; streamed, it is not even downloaded."
    datasets, hub, fsspec = (pytest.importorskip(m) for m in ('datasets', 'huggingface_hub', 'fsspec')); asked = []
    for part, n in (('train', 4), ('validation', 2)): table(tmp_path/'repo'/f'{part}-0.parquet', META, img=cells(n), fine_label=[0, 1]*(n//2))
    url = 'hf://datasets/org/name@refs%2Fconvert%2Fparquet/{}-0.parquet'
    monkeypatch.setattr(datasets, 'load_dataset_builder', lambda name, config=None: asked.append((name, config)) or _builder(train=[url.format('train')], validation=[url.format('validation')], test=['hf://…/x.parquet']))
    monkeypatch.setattr(datasets, 'load_dataset', lambda *a, **kw: pytest.fail('would have copied the set'))
    monkeypatch.setattr(hub, 'hf_hub_download', lambda repo, file, **kw: asked.append((repo, file, kw)) or str(tmp_path/'repo'/file))
    s = open_source('hf:org/name:plain'); assert (len(s.train), len(s.val), s.classes) == (4, 2, ['ant', 'bee']) and torch.equal(s.val.read(1), decode(png(1), ''))
    assert asked == [('org/name', 'plain')] + [('org/name', f'{p}-0.parquet', dict(repo_type='dataset', revision='refs/convert/parquet')) for p in ('train', 'validation')]
    fs = fsspec.filesystem('memory')
    for f in (tmp_path/'repo').iterdir(): fs.pipe_file(f'/streamed/{f.name}', f.read_bytes())
    monkeypatch.setattr(datasets, 'load_dataset_builder', lambda *a: _builder(train=['memory://streamed/train-0.parquet'], test=['memory://streamed/validation-0.parquet']))
    t = open_source('hf-stream:org/name'); assert len(asked) == 3 and pixels(t.train) == pixels(s.train) and len(t.val) == 2
    fs.rm('/streamed', recursive=True); fails('streamed/train-0.parquet', 'not a readable parquet file')('hf-stream:org/name')

@pytest.fixture
def shards(tmp_path, monkeypatch):
    "60 images in three shards, six to a row group, and memory for two groups."
    for k in range(3): pq.write_table(pa.table(dict(image=cells(20, 20*k), label=[i % 3 for i in range(20)])), tmp_path/f'train-{k}.parquet', row_group_size=6)
    pq.write_table(pa.table(dict(image=cells(3), label=[0, 1, 2])), tmp_path/'val.parquet')
    whole = open_source(tmp_path, size=6, val_fraction=0)
    monkeypatch.setattr(data, 'MEMORY', 6000); monkeypatch.setattr(data, 'CHECKED', 0); return tmp_path, whole

def test_parquet_in_place(shards):
    "The same images as from memory, in any order and from any subset, and no more than two groups are ever held."
    d, whole = shards; before = {p.name for p in d.iterdir()}; s = open_source(d, size=6).train; st = s.store
    assert s.lazy and s.windowed and len(st.blocks) == 12 and st.window == 2
    for idx in (torch.arange(60), torch.tensor([59, 0, 30, 30, 2])):
        for workers in (0, 2): assert torch.equal(torch.cat([x for x, _ in s.batches(6, 7, idx, workers=workers)]), whole.train.tensor(6)[idx]) and len(st.kept) <= 2
    assert torch.equal(s.subset([40, 3, 7]).read(1), whole.train.read(3)) and st.name(45) == 'train-2.parquet row 5'
    assert torch.equal(torch.cat([x for x, _ in s.batches(6, 0, iter(torch.arange(60).split(9)))]), whole.train.tensor(6))
    reads, load = [], st._load; st._load = lambda b: reads.append(b) or load(b); st.kept.clear()
    for o in (s.shuffled(rng(0, 'a')), torch.arange(60)): list(s.batches(6, 8, o)); assert sorted(reads) == list(range(12)); reads.clear(); st.kept.clear()
    o, p = s.shuffled(rng(0, 'a')), s.shuffled(rng(1, 'a')); assert not torch.equal(o, p) and torch.equal(o.sort()[0], torch.arange(60))
    assert {p.name for p in d.iterdir()} == before

def test_parquet_that_breaks_later(shards):
    d, _ = shards; s = open_source(d, size=6).train; (d/'train-1.parquet').unlink()
    fails('train-1.parquet', 'not a readable parquet file', f=lambda: list(s.batches(6, 8)))()
    with pytest.raises(OgmError, match='train-1.parquet'): list(s.batches(6, 8, workers=2))
    rows = cells(20); rows[13] = None; pq.write_table(pa.table(dict(image=rows, label=[0, 1]*10)), d/'train-1.parquet', row_group_size=6)
    fails('train-1.parquet', '1 row without an image, first row 13', f=lambda: list(open_source(d, size=6).train.batches(6, 8)))()
    pq.write_table(pa.table(dict(image=cells(2), class_id=[0, 1])), d/'train-1.parquet'); fails('train-1.parquet', "no column 'label'")(d)

def test_a_row_group_too_large_to_hold(shards, monkeypatch):
    real = data._Parquet.add; monkeypatch.setattr(data._Parquet, 'add', lambda self, *a: (real(self, *a), setattr(self, 'largest', 10**11)))
    fails('row group of 93 GB', 'row_group_size=1000')(shards[0])

def test_hub_layout_from_disk(tmp_path):
    datasets = pytest.importorskip('datasets')     # `datasets` reads a directory of parquet as it reads a hub repository
    for part, n in (('train', 4), ('validation', 2)): table(tmp_path/'data'/f'{part}-00000-of-00001.parquet', META, img=cells(n), fine_label=[0, 1]*(n//2))
    d = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path/'cache')); tr, va = data._dataset(d, 'x')
    assert len(tr) == 4 and len(va) == 2 and tr.classes == ['ant', 'bee'] and torch.equal(tr.read(1), decode(png(1), ''))

def test_bad_tables(tmp_path):
    t = lambda name, **kw: table(tmp_path/name, **kw)
    fails('a.parquet', 'no image column', 'label')(t('a.parquet', x=[1., 2.], label=[0, 1]))
    fails('b.parquet', 'no label column')(t('b.parquet', image=cells(2), y=[.5, .2]))
    fails('c.parquet', '1 row without an image', 'row 2')(t('c.parquet', image=[*cells(2), None], label=[0, 1, 0]))
    fails('c2.parquet', '1 row without an image', 'row 1')(t('c2.parquet', image=[*cells(1), {'bytes': None, 'path': None}], label=[0, 1]))
    fails('d.parquet', 'without a label', 'row 1')(t('d.parquet', image=cells(3), label=[0, None, 1]))
    fails('e.parquet', 'label -1 in row 1', 'out of range')(t('e.parquet', image=cells(3), label=[0, -1, 1]))
    fails('f.parquet', 'label 7 in row 2', '2 classes')(table(tmp_path/'f.parquet', META, img=cells(3), fine_label=[0, 1, 7]))
    fails('g.parquet', "labels reach 2, but no row has 1")(t('g.parquet', image=cells(4), label=[0, 0, 2, 2]))
    fails('h.parquet', 'only one class')(t('h.parquet', image=cells(2), label=[0, 0]))
    fails('i.parquet', 'no rows')(t('i.parquet', image=pa.array([], pa.binary()), label=pa.array([], pa.int64())))
    (tmp_path/'j.parquet').write_text('PAR1 or not'); fails('j.parquet', 'not a readable parquet file')(tmp_path/'j.parquet')

def test_bad_validation_tables(tmp_path):
    table(tmp_path/'a'/'train.parquet', image=cells(4), label=['ant', 'bee']*2); table(tmp_path/'a'/'test.parquet', image=cells(1), label=['cow'])
    fails("'cow'", 'test.parquet')(tmp_path/'a')
    table(tmp_path/'b'/'train.parquet', image=cells(4), label=[0, 1]*2); table(tmp_path/'b'/'test.parquet', image=cells(2), label=[0, 2])
    fails('test.parquet', 'label 2 in row 1')(tmp_path/'b')

def test_broken_rows_are_skipped_by_name(tmp_path):
    rows = cells(6); rows[3]['bytes'] = b'oops'
    s, w = told(open_source, table(tmp_path/'a.parquet', image=rows, label=[0, 1]*3), val_fraction=0)
    assert 'a.parquet row 3' in w[0] and s.train.labels.tolist() == [0, 1, 0, 0, 1]

def test_broken_saved_dataset(tmp_path):
    for n in ('dataset_info.json', 'state.json'): (tmp_path/n).write_text('{')
    fails(tmp_path.name, 'not a readable saved dataset')(tmp_path)


# ---- torchvision

def test_cifar_from_disk_and_absent(tmp_path, monkeypatch):
    import torchvision
    C = torchvision.datasets.CIFAR10
    def absent(self, *a, download=False, **kw): raise RuntimeError('Dataset not found\nor corrupted')
    monkeypatch.setattr(C, '__init__', absent)
    monkeypatch.setenv('OGM_DATA', str(tmp_path)); fails("'cifar10'", tmp_path.name, 'OGM_DATA')('cifar10')
    def there(self, root, train=True, download=False):
        assert Path(root) == tmp_path/'here'
        self.data, self.targets, self.classes = np.full((20, 32, 32, 3), 7, np.uint8), list(range(10))*2, [f'c{i}' for i in range(10)]
    monkeypatch.setattr(C, '__init__', there); s = open_source('cifar10', root=tmp_path/'here')
    assert s.train.images.shape == (20, 3, 32, 32) and s.n_classes == 10 and s.size == 32


# ---- real data, where there is some

REAL = os.environ.get('OGM_TEST_DATA')

@pytest.mark.skipif(not REAL, reason='OGM_TEST_DATA is not set')
def test_real_cifar10_and_photos():
    s = open_source(Path(REAL)/'cifar10')
    assert s.train.images.shape == (50000, 3, 32, 32) and s.train.labels.bincount().tolist() == [5000]*10 and len(s.val) == 10000 and s.classes[3] == 'cat'
    p = open_source(Path(REAL)/'imagenet-sample', strict=True)
    assert p.n_classes == 10 and p.size == 224 and p.train.tensor(224).shape[1:] == (3, 224, 224) and p.classes == sorted(p.classes)

def test_more_files_move_hardly_a_training_image_to_the_judges(tmp_path):
    "A folder doubles, five files at a time; of what was learnt from hardly anything is judged by."
    g = np.random.default_rng(0); draw = lambda f: Image.fromarray(g.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(f)
    for c in ('cat', 'dog'):
        (tmp_path/c).mkdir(); [draw(tmp_path/c/f'{i}.png') for i in range(50)]
    names = lambda split: {split.store.name(int(r)) for r in split.rows}; was = open_source(tmp_path, val_fraction=.2); leaked = 0
    for k in range(10):
        for c in ('cat', 'dog'): [draw(tmp_path/c/f'new {k} {i}.png') for i in range(5)]
        now = open_source(tmp_path, val_fraction=.2); leaked = len(names(was.train) & names(now.val)); assert now.digest() != was.digest()
    assert leaked <= 8 and len(names(was.val) & names(now.val)) >= 12, leaked       # of 80; drawn anew it would be 16
    assert open_source(tmp_path, val_fraction=.2).digest() == now.digest()

def test_files_of_the_same_length_are_told_apart(tmp_path):
    d = folder(tmp_path/'d'); [picture(i).save(f.with_suffix('.bmp')) or f.unlink() for i, f in enumerate(sorted(d.rglob('*.png')))]
    was = open_source(d).digest(); assert open_source(d).digest() == was
    [picture(50 + i).save(f) for i, f in enumerate(sorted(d.rglob('*.bmp')))]
    assert open_source(d).digest() != was

class Pids:
    "The process that does the work."
    def __getitem__(self, job): return os.getpid()

def test_ctrl_c_leaves_the_reading_processes_to_the_main_one():
    got = data.in_workers(Pids(), [[i] for i in range(40)], 40, list, workers=1); (pid,) = next(got); assert pid != os.getpid()
    os.kill(pid, signal.SIGINT); assert {p for p, in got} == {pid}

def test_a_side_of_one_pixel_is_refused():
    with pytest.raises(OgmError, match='2 to 8192'): open_source('digits', size=1)
