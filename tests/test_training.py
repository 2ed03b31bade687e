"Training: two ranks against one, kill and resume, and the bad input that a page would be too short for."
import os, pickle, socket, subprocess, sys, warnings
from pathlib import Path
from types import SimpleNamespace
import pytest, torch, torch.multiprocessing as mp
from ogm.core import OgmError, distributed, gather_ranks, rank, rng
from ogm.data import Split
from ogm.models import Teacher, build, load_teacher
from ogm.training import RECIPES, _Feed, accuracy, build_seeded, channel_stats, fit_teacher, get_recipe, train

NORM = dict(mean=(0.5,)*3, std=(0.25,)*3, size=8, device='cpu')

def blobs(n=37, n_classes=3, size=8, seed=0):
    "Noise, brighter in the band of rows that belongs to the class."
    y = torch.arange(n) % n_classes
    x = torch.randint(0, 120, (n, 3, size, size), generator=rng(seed, 'blobs'), dtype=torch.uint8)
    for i, c in enumerate(y): x[i, :, 2*c:2*c + 2] += 120
    return Split.from_tensor(x, y, [f'band {c}' for c in range(n_classes)])

def teacher_of(split, seed=5): return Teacher(build_seeded('convnet1-w8', split.n_classes, 8, seed), 'convnet1-w8', 8, (0.4,)*3, (0.3,)*3, split.classes)

def job(recipe, labels, norm, **kw):
    split, net = blobs(), build_seeded(f'convnet2-w8-{norm}', 3, 8)
    h = train(net, split, recipe, labels=labels, teacher=teacher_of(split), val=blobs(11, seed=1), epochs=3, batch_size=16, seed=3, **(NORM | kw))
    return h, net

JOBS = [('ogm-basic', 'hard', 'none'), ('ogm-muon', 'soft', 'in'), ('rded', 'hard', 'ln'), ('ogm-basic', 'hard', 'bn')]

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
    if 'muon' in args[0]: return            # exact U Vᵀ of a rank-deficient gradient turns rounding into directions; the losses agree
    state = torch.cat([v.float().flatten() for v in net.state_dict().values()])
    assert (two.state - state).abs().max() < 1e-3*state.abs().max()

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
    def batches(self, *args, **kw): return self.split.batches(*args, **kw)

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
    split, t = blobs(), Teacher(build_seeded('convnet2-w8', 3, 16), 'convnet2-w8', 16, (0.4,)*3, (0.3,)*3, 'abc')
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
