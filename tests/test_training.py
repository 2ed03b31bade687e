"Training: two ranks against one, kill and resume, and the bad input that a page would be too short for."
import os, pickle, shutil, socket, subprocess, sys, warnings
from pathlib import Path
from types import SimpleNamespace
import pytest, torch, torch.multiprocessing as mp
from ogm.core import OgmError, distributed, gather_ranks, rank, rng
from ogm.data import Split, open_source
from ogm.models import Teacher, build, load_teacher
from ogm.polar import polar
from ogm.training import RECIPES, _Feed, accuracy, augment, build_seeded, channel_stats, draw, fit_teacher, for_few, get_recipe, train

NORM = dict(mean=(0.5,)*3, std=(0.25,)*3, size=8, device='cpu')

def blobs(n=37, n_classes=3, size=8, seed=0):
    "Noise, brighter in the band of rows that belongs to the class."
    y = torch.arange(n) % n_classes
    x = torch.randint(0, 120, (n, 3, size, size), generator=rng(seed, 'blobs'), dtype=torch.uint8)
    for i, c in enumerate(y): x[i, :, 2*c:2*c + 2] += 120
    return Split.from_tensor(x, y, [f'band {c}' for c in range(n_classes)])

def teacher_of(split, seed=5): return Teacher(build_seeded('convnet1-w8', split.n_classes, 8, seed), 'convnet1-w8', 8, (0.4,)*3, (0.3,)*3, split.classes)

def job(recipe, labels, norm, **kw):
    split, net = blobs(), build_seeded('convnet1-w4-none' if recipe == 'ogm-muon' and norm == 'none' else f'convnet2-w8-{norm}', 3, 8)
    h = train(net, split, recipe, labels=labels, teacher=teacher_of(split), val=blobs(11, seed=1), epochs=3, batch_size=16, seed=3, **(NORM | kw))
    return h, net

JOBS = [('ogm-basic', 'hard', 'none'), ('ogm-muon', 'soft', 'in'), ('rded', 'hard', 'ln'), ('ogm-basic', 'hard', 'bn'), ('ogm-muon', 'hard', 'none')]

def _worker(r, world, port, out):
    os.environ.update(RANK=str(r), WORLD_SIZE=str(world), LOCAL_RANK=str(r), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1); results = {}
    with distributed('cpu'):
        for args in JOBS:
            h, net = job(*args, factor=2)
            state = torch.cat([v.float().flatten() for v in net.state_dict().values()])
            results['-'.join(args)] = dict(loss=h.loss, acc=h.acc, steps=h.steps, state=state, states=gather_ranks(state[None]), last=gather_ranks(torch.tensor([h.last])))
        if rank() == 0: torch.save(results, out)

@pytest.fixture(scope='module')
def two_ranks(tmp_path_factory):
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    out = tmp_path_factory.mktemp('ranks')/'out.pt'; mp.spawn(_worker, (2, port, out), nprocs=2)
    return {k: SimpleNamespace(**v) for k, v in torch.load(out, weights_only=True).items()}

@pytest.mark.parametrize('args', JOBS[:3])
def test_two_ranks_equal_one(two_ranks, args):
    "37 images in batches of 16: the last one is short and odd, cutmix partners cross the ranks."
    h, net = job(*args, factor=2); two = two_ranks['-'.join(args)]
    assert h.steps == two.steps == 9 and two.loss == pytest.approx(h.loss, rel=1e-3) and two.acc == pytest.approx(h.acc)
    state = torch.cat([v.float().flatten() for v in net.state_dict().values()]); d = (two.state - state).abs()
    if args[2] == 'in' and 'muon' in args[0]: # exact U Vᵀ of a gradient without full rank: see below
        assert d.median() < 1e-4*state.abs().median() and d.norm() < .3*state.norm(); return
    assert d.max() < 1e-3*state.abs().max()

def test_muon_on_two_ranks(two_ranks):
    "Where gradients have full rank, the weights of Muon with exact U Vᵀ agree as those of AdamW do: the sums of two ranks differ in their last bits, and so does U Vᵀ."
    h, net = job(*JOBS[4], factor=2); two = two_ranks['-'.join(JOBS[4])]; state = torch.cat([v.float().flatten() for v in net.state_dict().values()])
    assert two.loss == pytest.approx(h.loss, rel=1e-5) and (two.state - state).abs().max() < 1e-4*state.abs().max()

def test_why_muon_needs_full_rank():
    "Rounding of relative size 1e-7 moves U Vᵀ by about that over the smallest singular value; directions that are nothing but rounding come out at random, at full length."
    U, V = (torch.linalg.qr(torch.randn(8, 8, generator=rng(0, k), dtype=torch.float64))[0] for k in 'UV'); noise = 1e-7*torch.randn(8, 8, generator=rng(0, 'n'), dtype=torch.float64)
    moved = lambda s: (polar(U@torch.diag(s)@V + noise) - polar(U@torch.diag(s)@V)).norm().item()
    full, weak = torch.linspace(1, .1, 8, dtype=torch.float64), torch.linspace(1, .1, 8, dtype=torch.float64); weak[-3:] = 1e-9
    assert moved(full) < 1e-5 and moved(weak) > .1

@pytest.mark.parametrize('args', JOBS)
def test_the_ranks_agree(two_ranks, args):
    two = two_ranks['-'.join(args)]
    assert torch.equal(two.states[0], two.states[1]) and two.last[0] == two.last[1]

def test_batch_norm_without_synchronisation_is_close(two_ranks):
    "On the CPU each rank normalises by its own images: the curve differs, and only a little."
    h, _ = job(*JOBS[3], factor=2); two = two_ranks['-'.join(JOBS[3])]
    assert two.loss == pytest.approx(h.loss, rel=0.3) and two.loss != h.loss

KILLED = '''
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_training import *
def die(epoch, h):
    if epoch == 3: os.kill(os.getpid(), signal.{sig})
net = build_seeded('convnet2-w8', 3, 8)
train(net, blobs(), 'ogm-muon', epochs=6, batch_size=16, checkpoint={ck!r}, save_every=2, on_epoch=die, **NORM)
'''

@pytest.mark.parametrize('sig', ['SIGKILL', 'SIGINT'])
def test_killed_and_resumed_is_the_same(tmp_path, sig):
    ck = str(tmp_path/'net.ckpt')
    code = KILLED.format(tests=str(Path(__file__).parent), sig=sig, ck=ck)
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode != 0 and Path(ck).exists()
    straight, resumed = build_seeded('convnet2-w8', 3, 8), build_seeded('convnet2-w8', 3, 8, seed=9)
    kw = dict(epochs=6, batch_size=16, **NORM)
    a, b = train(straight, blobs(), 'ogm-muon', **kw), train(resumed, blobs(), 'ogm-muon', checkpoint=ck, save_every=2, **kw)
    assert a == b and all(torch.equal(x, y) for x, y in zip(straight.state_dict().values(), resumed.state_dict().values()))
    assert train(resumed, blobs(), 'ogm-muon', checkpoint=ck, **kw) == a            # finished: nothing is done again
    with pytest.raises(OgmError, match='belongs to another training'): train(resumed, blobs(seed=8), 'ogm-muon', checkpoint=ck, **kw)
    assert [p.name for p in tmp_path.iterdir()] == ['net.ckpt']

def test_dropout_survives_a_resume(tmp_path):
    def run(ck, stop=None):
        def end(e, h):
            if e == stop: raise KeyboardInterrupt
        net = build_seeded('convnet1-w8', 3, 8); net.insert(2, torch.nn.Dropout(0.5))
        train(net, blobs(), 'sgd', epochs=4, checkpoint=ck, save_every=1, on_epoch=end, **NORM)
        return net
    with pytest.raises(KeyboardInterrupt): run(tmp_path/'a', 2)
    for x, y in zip(run(tmp_path/'a').parameters(), run(tmp_path/'b').parameters()): assert torch.equal(x, y)

class Streamed:
    "A split too large to hold: only batches can be asked for."
    lazy = True
    def __init__(self, split): self.split, self.labels, self.classes, self.n_classes = split, split.labels, split.classes, split.n_classes
    def __len__(self): return len(self.split)
    def __getattr__(self, name): return getattr(self.split, name)

def test_streaming_is_the_same_training(monkeypatch):
    monkeypatch.setattr('ogm.training.MEMORY', 0)
    kw = dict(epochs=2, batch_size=16, **NORM); a, b = (build_seeded('convnet1-w8', 3, 8) for _ in range(2))
    assert train(a, blobs(), 'ogm-basic', **kw) == train(b, Streamed(blobs()), 'ogm-basic', **kw)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
    assert _Feed(Streamed(blobs()), 8, torch.device('cpu')).bytes is None

@pytest.mark.parametrize('optimizer', ['sgd', 'adamw', 'muon'])
def test_a_loss_that_is_not_finite_stops(optimizer):
    with pytest.raises(OgmError, match=r'not finite in epoch \d+, step \d+'):
        train(build_seeded('convnet2-w8-none', 3, 8), blobs(), get_recipe('sgd', optimizer=optimizer, lr=1e30, epochs=5, batch_size=16), **NORM)

@pytest.mark.parametrize('recipe', list(RECIPES))
@pytest.mark.parametrize('labels', ['hard', 'soft'])
def test_every_recipe_on_a_tiny_set(recipe, labels):
    "Ten images, batch 128: one batch of ten an epoch, and the training set is learnt better than by chance."
    split, net = blobs(10), build_seeded('convnet2-w16', 3, 8)
    h = train(net, split, recipe, labels=labels, teacher=teacher_of(split), val=split, epochs=5, factor=2, **NORM)
    assert h.steps == 5 and len(h.loss) == 5 and h.loss[-1] < 2*h.loss[0] and not net.training

def test_teacher_of_another_size():
    split, t = blobs(), Teacher(build_seeded('convnet2-w8', 3, 16), 'convnet2-w8', 16, (0.4,)*3, (0.3,)*3, blobs().classes)
    h = train(build_seeded('convnet2-w8', 3, 8), split, 'ogm-basic', labels='soft', teacher=t, epochs=2, amp=True, channels_last=True, **NORM)
    assert h.loss[0] > 0 and h.acc == [] and h.last is None

def test_fitted_teacher():
    val = blobs(60, seed=1); source = SimpleNamespace(train=blobs(300), val=val, classes=val.classes, ids=['b0', 'b1', 'b2'], size=8, name='blobs')
    t = fit_teacher(source, width=8, epochs=12, recipe='teacher', batch_size=32, flip=False, shift=0., device='cpu', seed=1)
    mean, std = channel_stats(source.train, 8)
    assert (t.mean, t.std, t.ids, t.size, t.arch) == (mean, std, ['b0', 'b1', 'b2'], 8, 'convnet3-w8') and t.accuracy > 0.9
    assert accuracy(t, val, mean=t.mean, std=t.std, size=8) == pytest.approx(t.accuracy)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        shuffled = SimpleNamespace(val=Split.from_tensor(val.images, 2 - val.labels, val.classes[::-1], ['b2', 'b1', 'b0']), classes=val.classes[::-1], ids=['b2', 'b1', 'b0'])
        assert accuracy(t.aligned(shuffled), shuffled.val, mean=t.mean, std=t.std, size=8) == pytest.approx(t.accuracy)
        shuffled.ids = None; t.aligned(shuffled)                       # by name: still right, no warning
    unnamed = SimpleNamespace(classes=['0', '1', '2'], ids=None, val=shuffled.val.subset(range(59)))
    with pytest.warns(UserWarning, match='same order'): t.aligned(unnamed)
    with pytest.raises(OgmError, match=r"does not know \['b9'\], of the teacher's 3 the source has not \['b2'\]"):
        t.aligned((['x', 'y', 'z'], ['b0', 'b1', 'b9']))

@pytest.mark.parametrize('bad,match', [
    (lambda: get_recipe('adan'), 'unknown recipe'), (lambda: get_recipe('sgd', momentun=1), 'no field momentun'), (lambda: get_recipe('sgd', batch_size=-1), 'batch_size must be positive'),
    (lambda: build('resnet17', 10), 'did you mean resnet'), (lambda: build('', 10), 'unknown architecture'), (lambda: build('convnet3-w0', 10), 'unknown architecture'),
    (lambda: build('inception_v3', 10, 32), 'larger images'), (lambda: train(build('convnet1-w2', 3, 8), blobs(), 'sgd', labels='firm', **NORM), "'hard' or 'soft'"),
    (lambda: train(build('convnet1-w2', 4, 8), blobs(), 'sgd', labels='soft', teacher=teacher_of(blobs(n_classes=4)), **NORM), 'align it first'),
    (lambda: train(build('convnet1-w2', 3, 8), blobs().subset([]), 'sgd', **NORM), 'no images'), (lambda: load_teacher('nowhere.pth', arch='convnet3'), 'does not exist'),
    (lambda: load_teacher('torchvision:convnet3'), 'unknown architecture')])
def test_bad_input_is_one_line(bad, match):
    with pytest.raises(OgmError, match=match) as e: bad()
    assert '\n' not in str(e.value)

class Trap:
    def __reduce__(self): return os.system, ('touch had',)

@pytest.mark.parametrize('write', [lambda p: p.write_bytes(pickle.dumps({'state_dict': Trap()}, protocol=2)), lambda p: p.write_bytes(pickle.dumps(Trap())),
                                   lambda p: torch.save({'w': Trap()}, p), lambda p: p.write_bytes(b''), lambda p: p.write_bytes(b'PK\3\4junk'), lambda p: torch.save([3], p)])
def test_unsafe_or_broken_pth_is_refused(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path); write(tmp_path/'net.pth')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(OgmError, match='net.pth') as e: load_teacher(tmp_path/'net.pth', arch='convnet3')
    assert '\n' not in str(e.value) and not (tmp_path/'had').exists()

@pytest.fixture
def shards(tmp_path, monkeypatch):
    "300 images of three classes in shards of row groups of 20, with memory for two groups; and the same in memory."
    import io; from PIL import Image; import pyarrow as pa, pyarrow.parquet as pq; import ogm.data as data
    split = blobs(300); png = lambda x: (b := io.BytesIO(), Image.fromarray(x.permute(1, 2, 0).numpy()).save(b, 'PNG'))[0].getvalue()
    for k in range(3):
        rows = range(100*k, 100*k + 100)
        pq.write_table(pa.table(dict(image=[png(split.images[i]) for i in rows], label=[int(split.labels[i]) for i in rows])), tmp_path/f'train-{k}.parquet', row_group_size=20)
    for m in ('ogm.data', 'ogm.training'): monkeypatch.setattr(f'{m}.MEMORY', 14000)
    monkeypatch.setattr(data, 'CHECKED', 0); lazy = open_source(tmp_path, val_fraction=0, size=8).train
    assert lazy.windowed and lazy.store.window < 5; return lazy, split, tmp_path

@pytest.mark.parametrize('workers', [0, 2])
def test_training_on_parquet_in_place(shards, tmp_path, workers):
    "Every image once an epoch, no group read twice, stopped in the middle of an epoch and continued bit for bit."
    lazy, whole, d = shards; reads, load = [], lazy.store._load; lazy.store._load = lambda b: reads.append(b) or load(b)
    kw = dict(epochs=3, batch_size=16, workers=workers, seed=2, **NORM); a, b = (build_seeded('convnet1-w8', 3, 8, s) for s in (0, 1)); seen = []
    class Spy:
        def __init__(self, split): self.split = split
        def __getattr__(self, name): return getattr(self.split, name)
        def __len__(self): return len(self.split)
        def batches(self, size, n, rows, w): return self.split.batches(size, n, (seen.append(r) or r for r in rows), w)
    h = train(a, Spy(lazy), 'ogm-basic', **kw)
    assert torch.equal(torch.cat(seen).sort()[0], torch.arange(300).repeat_interleave(3)) and len(reads) <= 3*15 + 3 and h.loss[-1] < h.loss[0]
    class Cut(Exception): pass
    ck = tmp_path/'net.ckpt'; net = build_seeded('convnet1-w8', 3, 8); count = [0]
    def hook(*_):
        count[0] += 1
        if count[0] == 27: raise Cut            # in the second epoch
    net.register_forward_pre_hook(hook)
    import ogm.training as tr; old, tr.CHECKPOINT_SECONDS = tr.CHECKPOINT_SECONDS, 0
    try:
        with pytest.raises(Cut): train(net, lazy, 'ogm-basic', checkpoint=ck, **kw)
        assert torch.load(ck, weights_only=True)['begun'].shape == (1, 7)      # of the 19 steps of that epoch
        assert train(b, lazy, 'ogm-basic', checkpoint=ck, **kw) == h
    finally: tr.CHECKPOINT_SECONDS = old
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))

def test_novices_are_compared_with_images_that_are_read_ahead(shards, monkeypatch):
    "From the disk by two processes or by none, in any order of steps: what is drawn is the same; and who reads in each step is told."
    lazy, whole, d = shards; from ogm.data import Source; from ogm.training import Novices; classes = torch.tensor([2, 0])
    assert not whole.lazy; kept = Novices(Source('whole', whole, whole, 8), 'convnet1-w8', age=8, device='cpu')
    with pytest.warns(UserWarning, match=r'300 images of 8 px take 5.76e-05 GB, and OGM_MEMORY holds 1.4e-05: .* OGM_MEMORY=6.3e\+04 keeps them'): read = Novices(Source('lazy', lazy, lazy, 8), 'convnet1-w8', age=8, device='cpu')
    begun = []; import multiprocessing, ogm.training as tr; stream = tr._stream; monkeypatch.setattr(tr, '_stream', lambda *a: begun.append(a) or stream(*a))
    for workers in (0, 2):
        read.feed.workers, read.feed.coming, read.alive = workers, {}, {}; begun.clear()
        for t in (3, 4, 5, 6, 2, 3):
            for a, b in zip(read.examples(t, classes, 6), kept.examples(t, classes, 6)): assert torch.equal(a, b), t
        assert len(begun) == 2      # one for 3 to 6, one from 2 on
        read.examples(4, classes, 7); assert len(begun) == 3
        turns = lambda t: torch.tensor([[0, 1], [2]][t % 2]) # some classes in one step, the others in the next
        for t in range(4, 9): assert torch.equal(read.examples(t, turns(t), 5, turns)[0], kept.examples(t, turns(t), 5)[0]), t
        assert len(begun) == 4
        for t in (9, 10, 11, 12, 5): # four youths and one more of who is born again, and lessons that go on from 9 and begin anew at 5
            assert all(torch.equal(a, b) for a, b in zip(read.at(t).state_dict().values(), kept.at(t).state_dict().values())), t
        assert len(begun) == 4 + 5 + 2, len(begun)
    assert len(multiprocessing.active_children()) == 4; read.close(); assert not multiprocessing.active_children()
    read.examples(5, classes, 6); assert multiprocessing.active_children(); del read; assert not multiprocessing.active_children() # they hold on to nobody, nor is anybody kept

def test_the_plan_of_an_epoch_is_made_as_it_goes(monkeypatch):
    "No more batches are drawn in advance than the workers can use."
    import ogm.training as tr; drawn, most, real = [0], [0], tr.draw
    monkeypatch.setattr(tr, 'draw', lambda *a: drawn.__setitem__(0, drawn[0] + 1) or real(*a)); monkeypatch.setattr('ogm.training.MEMORY', 0); monkeypatch.setattr('ogm.data.MEMORY', 0)
    net, used = build_seeded('convnet1-w8', 3, 8), [0]
    net.register_forward_pre_hook(lambda *_: (used.__setitem__(0, used[0] + 1), most.__setitem__(0, max(most[0], drawn[0] - used[0]))) and None)
    train(net, Streamed(blobs(2000)), 'ogm-basic', epochs=1, batch_size=16, workers=0, **NORM); assert used[0] == drawn[0] == 125 and most[0] <= 1

def test_a_sorted_table_is_noticed(shards, tmp_path):
    lazy, _, _ = shards
    with warnings.catch_warnings(): warnings.simplefilter('error'); _Feed(lazy, 8, torch.device('cpu'))
    lazy.labels = torch.arange(300)//20; lazy.classes = list(map(str, range(15)))
    with pytest.warns(UserWarning, match='seems to be sorted: .* hold . of 15 classes'): _Feed(lazy, 8, torch.device('cpu'))

@pytest.mark.parametrize('ruin', ['loss', 'weights'])
def test_ruined_weights_reach_no_checkpoint(tmp_path, monkeypatch, ruin):
    "A step in the middle of an epoch goes wrong just before a checkpoint is due: the last good one stays, and the layer is named."
    monkeypatch.setattr('ogm.training.CHECKPOINT_SECONDS', 0); net, count, ck = build_seeded('convnet2-w8', 3, 8), [0], tmp_path/'net.ckpt'; first = list(net.named_parameters())[0]
    class Bad(torch.optim.SGD):
        def step(self):
            super().step(); count[0] += 1
            if count[0] == 4: self.param_groups[0]['params'][0].data[0] = float('nan')
    def hook(m, x, out):
        if ruin == 'loss' and count[0] == 3: return out*float('nan')
    monkeypatch.setattr('ogm.training.make_optimizer', lambda net, r: (Bad if ruin == 'weights' else torch.optim.SGD)(net.parameters(), lr=.01)); net.register_forward_hook(hook)
    if ruin == 'loss': net.register_forward_pre_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    with pytest.raises(OgmError, match=f"not finite in epoch 1, step {4 if ruin == 'weights' else 3}") as e: train(net, blobs(), 'sgd', epochs=3, batch_size=4, checkpoint=ck, **NORM)
    kept = torch.load(ck, weights_only=True); assert all(v.isfinite().all() for v in kept['net'].values() if v.is_floating_point()) and 'the last checkpoint is intact' in str(e.value)
    assert kept['begun'].shape == (1, 3 if ruin == 'weights' else 2)
    if ruin == 'weights': assert f'{first[0]!r}' in str(e.value)

def test_a_teacher_of_few_images():
    "Smaller batches and a rate in proportion, unless somebody has set them; what was not learnt is said, also without images to judge by."
    r = get_recipe('teacher'); few = for_few(r, 174); assert (few.batch_size, few.lr) == (21, pytest.approx(0.1*21/128)) and for_few(r, 40).batch_size == 16
    assert for_few(r, 1438) == r and for_few(r, 174, dict(lr=.1)) == r and for_few(r, 174, dict(batch_size=8)) == r
    train_, none = blobs(60), blobs().subset([]); kw = dict(width=8, flip=False, shift=0., device='cpu', seed=1)
    def source(val): return SimpleNamespace(train=train_, val=val, classes=train_.classes, ids=None, size=8, name='blobs')
    with pytest.warns(UserWarning, match='of 50 images, chance is 33.3%'): fit_teacher(source(blobs(50, seed=1)), epochs=1, lr=1e-9, **kw)
    with pytest.warns(UserWarning, match=r'next to nothing of its own images, its loss is 1\.\d\d and guessing costs 1.10'): t = fit_teacher(source(none), epochs=1, lr=1e-9, **kw)
    assert t.accuracy is None
    with warnings.catch_warnings(): warnings.simplefilter('error'); fit_teacher(source(none), epochs=40, **kw)

def test_only_the_first_process_doubts_a_teacher(monkeypatch):
    from ogm.models import check_teacher
    src = open_source('digits'); blind = Teacher(build_seeded('convnet1-w4', 10, 8), 'convnet1-w4', 8, (.5,)*3, (.25,)*3, src.classes)
    with pytest.warns(UserWarning, match='chance is 10.0%'): check_teacher(blind, src.val)
    monkeypatch.setattr('ogm.models.rank', lambda: 1)
    with warnings.catch_warnings(): warnings.simplefilter('error'); check_teacher(blind, src.val)

# ---- steps that torch compiles

compiler = pytest.mark.skipif(not any(map(shutil.which, ('c++', 'g++', 'clang++'))), reason='torch compiles for a CPU with a C++ compiler, and there is none')

def flat(net): return torch.cat([v.flatten().double() for v in net.state_dict().values()])

@compiler
def test_a_compiled_training_differs_by_rounding_and_resumes_to_the_bit(tmp_path):
    "Running statistics too: what is compiled is in training mode."
    def go(**kw): net = build_seeded('convnet1-w8-bn', 3, 8); return flat(net), train(net, blobs(32), 'teacher', epochs=4, batch_size=16, lr=.02, val=blobs(11, seed=1), seed=3, **(NORM | kw)), flat(net)
    def stop(epoch, h):
        if epoch == 2: raise KeyboardInterrupt
    (begun, h, plain), (_, fast_h, fast), cut = go(), go(compile=True), dict(compile=True, checkpoint=tmp_path/'net.ckpt', save_every=1)
    assert (fast - plain).norm() < 1e-4*(plain - begun).norm() and h.loss == pytest.approx(fast_h.loss, rel=1e-5) and fast_h.last is not None
    with pytest.raises(KeyboardInterrupt): go(on_epoch=stop, **cut)
    _, again_h, again = go(**cut); assert torch.equal(again, fast) and again_h == fast_h
    for other in (dict(compile=False), dict(amp=True)):
        with pytest.raises(OgmError, match='belongs to another training .*arithmetic'): go(**cut | other)

def test_without_a_compiler_one_line():
    import torch._dynamo, torch._inductor.config as config
    torch._dynamo.reset()
    with config.patch({'cpp.cxx': ('/no/such/compiler',), 'force_disable_caches': True}), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(OgmError, match='torch cannot compile this network here: leave compile off, or mend what it lacks .*/no/such/compiler'): train(build_seeded('convnet1-w4', 3, 8), blobs(), 'sgd', epochs=1, compile=True, **NORM)
    torch._dynamo.reset()

def test_what_the_network_itself_raises_is_left_as_it_is():
    class Odd(torch.nn.Module):
        def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.ones(3))
        def forward(self, x): raise RuntimeError('its own')
    with pytest.raises(RuntimeError, match='its own') as e: train(Odd(), blobs(), 'sgd', epochs=1, **NORM)
    assert not isinstance(e.value, OgmError)

@pytest.mark.parametrize('side,factor,recipe', [(32, 3, 'rded'), (8, 3, 'ogm-basic:shuffle=True'), (28, 3, 'teacher:shuffle=True'), (7, 2, 'rded')])
def test_cells_that_do_not_fill_the_image_are_shuffled_all_the_same(side, factor, recipe):
    r = get_recipe(recipe); x = 255*torch.rand(16, 3, side, side, generator=rng(0, 'cells'))
    y = augment(x, draw(r, 16, side, factor, False, rng(1, 'cells')), torch.arange(16), r, factor)
    assert y.shape == x.shape and y.isfinite().all() and y.std() > 10

def test_images_on_disk_tell_one_training_from_another(tmp_path, monkeypatch):
    "Also where they are not held in memory, and the files are as long as before."
    from PIL import Image
    def made(seed):
        for i, x in enumerate(blobs(8, seed=seed).images): (tmp_path/f'{i % 2}').mkdir(exist_ok=True); Image.fromarray(x.permute(1, 2, 0).numpy()).save(tmp_path/f'{i % 2}'/f'{i}.bmp')
        return open_source(tmp_path, size=8, val_fraction=0).train
    monkeypatch.setattr('ogm.data.MEMORY', 100); monkeypatch.setattr('ogm.training.MEMORY', 100)
    def told(seed): f = _Feed(made(seed), 8, torch.device('cpu')); assert f.bytes is None; return f.digest()
    assert told(0) == told(0) != told(1)

def test_impossible_steps_are_refused_in_one_line():
    for bad in ('sgd:nesterov=True,momentum=0', 'ogm-basic:lr=1e300'):
        with pytest.raises(OgmError, match='momentum above 0|at most 1e38'): get_recipe(bad)
