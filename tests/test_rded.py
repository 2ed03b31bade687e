"RDED against the straightforward reading of its description, on awkward classes, on two ranks, and on bad input."
import warnings
import pytest, torch, torch.multiprocessing as mp, torch.nn.functional as F
from PIL import Image
from ogm.core import OgmError, rng
from ogm.data import Source, Split, open_source
from ogm.models import Teacher, build
from ogm.core import seeded
from ogm.rded import _shuffled, _uniform, default_factor, noise_set, random_set, rded, realism
from ogm.patches import fit_boxes
from torchvision.transforms.v2 import functional as TF

NAMES = ['ant', 'bee', 'cat']

def source(counts=(9, 5, 12), side=(40, 40), seed=0, ids=None):
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=rng(seed, 'order'))]
    x = torch.randint(0, 256, (len(labels), 3, 5, 5), generator=rng(seed, 'pixels')).float()
    x = F.interpolate(x, side, mode='bilinear').to(torch.uint8)
    sp = Split.from_tensor(x, labels, NAMES, ids); return Source('drawn', sp, sp, size=32)

def teacher(size=32, classes=NAMES):
    with seeded(0, 'net'): net = build('convnet3-w16', len(classes), size)
    for m in net.modules():
        if isinstance(m, torch.nn.Linear): m.weight.data *= 5
    return Teacher(net, 'convnet3-w16', size, (.5, .4, .3), (.2, .3, .25), list(classes))

@pytest.fixture
def folder(tmp_path):
    s = source((4, 5, 6), (48, 60)).train
    for i in range(len(s)):
        d = tmp_path/'data'/NAMES[int(s.labels[i])]; d.mkdir(parents=True, exist_ok=True)
        im = Image.fromarray(s.images[i].permute(1, 2, 0).numpy()); im.crop((0, 0, 60 - i, 48)).save(d/f'{i:02d}.png')   # every photo has a size of its own
    return tmp_path/'data'

def straightforward(source, t, ipc, factor, n_images=300, n_crops=5, seed=0):
    "One image at a time, class after class, as the method is described."
    cell, out = t.size//factor, []
    for c in range(source.n_classes):
        cands = []
        for row in _shuffled(source.train, c, n_images, seed).tolist():
            x, y = source.train[row]; assert y == c
            boxes = fit_boxes(_uniform(source.train, row, n_crops, seed), *x.shape[1:], (.08, 1), (1, 1))
            crops = torch.stack([TF.resized_crop(x, *b, [cell, cell], antialias=True) for b in boxes.tolist()])
            full = torch.zeros(n_crops, 3, t.size, t.size); a = (t.size - cell)//2
            full[:, :, a:a + cell, a:a + cell] = t.normalize(crops)
            with torch.no_grad(): s = F.cross_entropy(t(full).double(), torch.full((n_crops,), c), reduction='none')
            cands.append((s.min().item(), crops[s.argmin()]))
        cands = [x for _, x in sorted(cands, key=lambda p: p[0])][:ipc*factor**2]
        for i in range(ipc):
            im = torch.zeros(3, t.size, t.size, dtype=torch.uint8)
            for k in range(factor**2): r, q = divmod(k, factor); im[:, r*cell:(r + 1)*cell, q*cell:(q + 1)*cell] = cands[k*ipc + i]
            out.append(im)
    return torch.stack(out).view(source.n_classes, ipc, 3, t.size, t.size).transpose(0, 1).flatten(0, 1)


@pytest.mark.parametrize('ipc,factor', [(3, 1), (1, 2)])
@pytest.mark.parametrize('batch_size,workers', [(1, 0), (7, 0), (200, 2)])
def test_files_give_the_straightforward_selection(folder, ipc, factor, batch_size, workers):
    src, t = open_source(folder, size=32, val_fraction=0), teacher()
    assert src.train.lazy
    ds = rded(src, t, ipc, factor, device='cpu', batch_size=batch_size, workers=workers)
    assert torch.equal(ds.images, straightforward(src, t, ipc, factor)) and ds.labels.tolist() == [0, 1, 2]*ipc


def test_memory_gives_the_straightforward_selection_up_to_rounding():
    src, t = source(), teacher(); ds = rded(src, t, 2, device='cpu')
    assert (ds.images.int() - straightforward(src, t, 2, 1).int()).abs().max() <= 1
    assert (ds.mean, ds.std, ds.factor, ds.classes) == (t.mean, t.std, 1, NAMES) and ds.config['init'] == 'rded'


@pytest.mark.parametrize('batch_size', [1, 5, 16, 1000])
def test_batch_size_and_other_classes_change_nothing(batch_size):
    t = teacher(); ds, s = rded(source(), t, 3, device='cpu', return_scores=True); got, s2 = rded(source(), t, 3, device='cpu', batch_size=batch_size, return_scores=True)
    assert torch.equal(ds.images, got.images)
    torch.testing.assert_close(s, s2, rtol=1e-4, atol=1e-6)


def test_more_images_are_looked_at_before_any_serves_twice():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ds = rded(source((9, 8, 12)), teacher(), 2, 2, n_images=3, device='cpu')
    cells = ds.images.unflatten(2, (2, 16)).unflatten(4, (2, 16)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    assert len({c.numpy().tobytes() for c in cells}) == 24


def test_a_class_of_one_image():
    with pytest.warns(UserWarning, match="class 'bee' has only 1 of the 4 images"): ds = rded(source((9, 1, 12)), teacher(), 1, 2, device='cpu')
    assert ds.labels.tolist() == [0, 1, 2] and ds.images.shape == (3, 3, 32, 32)
    cells = {ds.images[1, :, i:i + 16, j:j + 16].numpy().tobytes() for i in (0, 16) for j in (0, 16)}
    assert len(cells) == 4                                                            # four different crops of the one image
    with pytest.warns(UserWarning, match='serve more than once'): assert random_set(source((9, 1, 12)), 1, 2).images.shape == (3, 3, 32, 32)


def test_sides_that_do_not_divide():
    ds = rded(source(), teacher(33), 1, 2, device='cpu')
    assert ds.images.shape[-1] == 33 and torch.equal(ds.images[..., 32], ds.images[..., 31])
    assert torch.equal(ds.images[..., 32, :], ds.images[..., 31, :])
    assert [default_factor(s) for s in (8, 32, 64, 128, 224)] == [1, 1, 1, 2, 2]


def test_the_teachers_class_order_is_matched():
    t = teacher(); order = [2, 0, 1]
    other = Teacher(t.net, t.arch, t.size, t.mean, t.std, [NAMES[i] for i in order], columns=order, n_logits=3)
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); got = rded(source(), other, 2, device='cpu')     # an untrained teacher is near chance
    assert torch.equal(got.images, rded(source(), t, 2, device='cpu').images)


def test_random_and_noise():
    src = source(side=(32, 32)); pool = {x.numpy().tobytes(): int(y) for x, y in zip(src.train.images, src.train.labels)}
    ds = random_set(src, 5)
    assert [pool[x.numpy().tobytes()] for x in ds.images] == ds.labels.tolist() == [0, 1, 2]*5
    assert len({x.numpy().tobytes() for x in ds.images}) == 15
    assert torch.equal(ds.images, random_set(src, 5).images) and not torch.equal(ds.images, random_set(src, 5, seed=1).images)
    small = {x.numpy().tobytes(): int(y) for x, y in zip(src.train.tensor(16), src.train.labels)}
    grid = random_set(src, 1, 2, teacher=teacher())
    for n, im in enumerate(grid.images): assert all(small[im[:, i:i + 16, j:j + 16].numpy().tobytes()] == n for i in (0, 16) for j in (0, 16))
    z = noise_set(src, 4, teacher=teacher(), size=64); assert z.images.shape == (12, 3, 64, 64) and z.labels.tolist() == [0, 1, 2]*4
    assert (z.images.float().mean((0, 2, 3))/255 - torch.tensor([.5, .4, .3])).abs().max() < .03
    assert not torch.equal(z.images, noise_set(src, 4, teacher=teacher(), size=64, seed=1).images)


@pytest.mark.parametrize('call,says', [
    (lambda: rded(source(), teacher(), 6), "ipc is 6, but class 'bee' has only 5 images"),
    (lambda: rded(source((9, 1, 9)), teacher(), 1, 3, device='cpu'), "needs 9 crops, but class 'bee' yields only 1×5"),
    (lambda: rded(source((9, 0, 9)), teacher(), 1), "class 'bee' has no images"),
    (lambda: rded(source(), teacher(), 0), 'ipc must be a whole number'),
    (lambda: rded(source(), teacher(), 1, 33), r'factor 33 is larger than the image \(32 px\)'),
    (lambda: rded(source(), teacher(), 1, 0), 'factor must be a whole number'),
    (lambda: rded(source(), teacher(), 1, n_crops=0), 'at least 1'),
    (lambda: rded(source(), teacher(classes=['ant', 'bee', 'dog']), 1), 'cat'),
    (lambda: random_set(source(), 6), "ipc is 6, but class 'bee' has only 5 images"),
    (lambda: random_set(source(), 1, 41, size=40), 'factor 41 is larger'),
    (lambda: noise_set(source(), 0), 'ipc must be'),
    (lambda: realism(teacher(), torch.zeros(1, 3, 40, 40, dtype=torch.uint8), torch.tensor([0])), 'larger than the teacher')])
def test_bad_input_is_told_in_one_line(call, says):
    with pytest.raises(OgmError, match=says) as e: call()
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_file_that_breaks_is_named(folder, workers):
    src = open_source(folder, size=32, val_fraction=0); (folder/'bee'/sorted((folder/'bee').iterdir())[0].name).write_text('no image')
    with pytest.raises(OgmError, match='bee'): rded(src, teacher(), 1, device='cpu', workers=workers)


def _alone(): # the second request has one class only, so that a second rank is idle
    one = source((9, 0, 0)).train; one = Split.from_tensor(one.images, one.labels, NAMES[:1])
    return [rded(source(), teacher(), 3, device='cpu', return_scores=True), rded(Source('one', one, one), teacher(classes=NAMES[:1]), 2, device='cpu', return_scores=True)]

def _rank(r, world, store, path):
    torch.set_num_threads(1); torch.distributed.init_process_group('gloo', init_method=f'file://{store}', rank=r, world_size=world)
    torch.save([(ds.images, ds.labels, s) for ds, s in _alone()], f'{path}{r}')
    torch.distributed.destroy_process_group()

def test_two_ranks_agree_with_one_process(tmp_path):
    mp.spawn(_rank, (2, tmp_path/'store', tmp_path/'out'), nprocs=2)
    for r in range(2):
        for (ds, s), (images, labels, scores) in zip(_alone(), torch.load(f'{tmp_path}/out{r}'), strict=True):
            assert torch.equal(images, ds.images) and torch.equal(labels, ds.labels)
            torch.testing.assert_close(scores, s, rtol=1e-4, atol=1e-6)

@pytest.fixture
def shards(tmp_path, monkeypatch):
    "The classes mixed over 90 images in row groups of 6, of which two are kept."
    import io; import pyarrow as pa, pyarrow.parquet as pq; import ogm.data as data
    s = source((40, 20, 30), (24, 24)).train; png = lambda x: (b := io.BytesIO(), Image.fromarray(x.permute(1, 2, 0).numpy()).save(b, 'PNG'))[0].getvalue()
    pq.write_table(pa.table(dict(image=[png(x) for x in s.images], label=s.labels.tolist())), tmp_path/'train.parquet', row_group_size=6)
    monkeypatch.setattr(data, 'MEMORY', 100_000); monkeypatch.setattr(data, 'CHECKED', 0); src = open_source(tmp_path/'train.parquet', size=32, val_fraction=0)
    monkeypatch.setattr(data._Parquet, 'window', 2); assert src.train.windowed and len(src.train.store.blocks) == 15
    return src, tmp_path

def test_a_mixed_table_is_read_twice_and_no_more(shards):
    "Once for the scores, once for the winners, whatever the classes; and the selection is that of a table which is held."
    src, _ = shards; st, t, reads = src.train.store, teacher(), []; load = st._load; st._load = lambda b: reads.append(b) or load(b)
    st.kept.clear(); ds, s = rded(src, t, 4, 2, device='cpu', return_scores=True, n_images=30); assert len(reads) <= 30 and reads[:15] == sorted(reads[:15])
    type(st).window = 100; st.kept.clear(); held, s2 = rded(src, t, 4, 2, device='cpu', return_scores=True, n_images=30); assert torch.equal(ds.images, held.images) and torch.equal(s, s2)
    type(st).window = 2; reads.clear(); st.kept.clear(); r = random_set(src, 3, 2, teacher=t); assert len(reads) <= 15
    type(st).window = 100; assert torch.equal(r.images, random_set(src, 3, 2, teacher=t).images)

def test_scores_are_kept(shards, tmp_path, monkeypatch):
    "After an interruption only the batches are scored that are missing, whoever made the others."
    src, _ = shards; t = teacher(); monkeypatch.setattr('ogm.rded.CHECKPOINT_SECONDS', 0); work = tmp_path/'w'; real, calls = t.net.forward, [0]
    whole = rded(src, t, 2, device='cpu', batch_size=20); rded(src, t, 2, device='cpu', batch_size=20, work=work)
    files = sorted(work.iterdir()); assert len(files) == 23 and files[0].name == 'scores-00000000-00000001.safetensors'
    for f in files[3:9] + files[-1:]: f.unlink()
    monkeypatch.setattr('ogm.rded.CHECKPOINT_SECONDS', 100); monkeypatch.setattr(t.net, 'forward', lambda x: calls.__setitem__(0, calls[0] + 1) or real(x))
    assert torch.equal(rded(src, t, 2, device='cpu', batch_size=20, work=work).images, whole.images) and calls[0] == 7
    assert {f.name for f in work.iterdir()} == {f.name for f in files[:3] + files[9:-1]} | {'scores-00000003-00000009.safetensors', files[-1].name}     # two gaps, two files
    calls[0] = 0; rded(src, t, 2, device='cpu', batch_size=20, work=work, seed=1); assert calls[0] == 23          # another request: nothing of it is used
