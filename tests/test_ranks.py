"Two processes under torchrun compute what one computes: target, selection, synthesis, training, evaluation, and the whole road."
import dataclasses, os, signal, subprocess, sys, time
from pathlib import Path

import pytest, torch

from ogm.core import OgmError, read_json
from ogm.data import open_source
from ogm.distilled import DistilledSet
from ogm.rded import random_set
from ogm.synthesis import Synthesis, distill
from ogm.training import fit_teacher

from kill import contents, step_of
from ranks_job import colours, untrained

HERE = Path(__file__).parent
ENV = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')} | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(HERE.parent))
ROAD = ['distill', '--data', 'digits', '--arch', 'convnet2-w16', '--epochs', '2', '--ipc', '2', '--iters', '20', '--device', 'cpu']

def start(*words, ranks=1, restarts=0):
    "A process or two of them."
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(ranks), '--max-restarts', str(restarts)] if ranks > 1 else []
    return subprocess.Popen([sys.executable, *launch, *map(str, words)], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def end(p):
    out = p.communicate(timeout=280)[0]
    assert p.returncode == 0, out
    return out

pytestmark = pytest.mark.xdist_group('ranks')

@pytest.fixture(scope='module')
def results(tmp_path_factory):
    work = tmp_path_factory.mktemp('ranks')
    fit_teacher(open_source('digits'), 'convnet2-w16', epochs=3, seed=0, device='cpu').save(work/'teacher.safetensors')
    running = [start(HERE/'ranks_job.py', work, 'two', ranks=2), start(HERE/'ranks_job.py', work, 'one')]
    for p in running: end(p)
    return [torch.load(work/f'{n}.pt', weights_only=True) for n in ('one', 'two')] + [work]

def test_the_real_target_is_the_same(results):
    one, two, _ = results
    for view in ('kernel', 'channel'):
        for n, T in one['target'][view].items(): assert (two['target'][view][n] - T).norm() <= 1e-6*T.norm()

def test_the_log_is_of_the_whole_batch(results):
    one, two, _ = results
    assert one['log'].shape == (4, 4) and (two['log']/one['log'] - 1).abs().max() < .02 # batch, step, cross-entropy, distance

def test_the_selection_is_identical(results):
    one, two, _ = results
    assert torch.equal(one['start'], two['start']) and torch.equal(one['scores'], two['scores']) and torch.equal(one['herding'], two['herding'])

def test_what_students_miss_is_nearly_the_same(results):
    "The students of two ranks differ in rounding, and so may a choice that is close."
    one, two, _ = results; same = (one['missed'] == two['missed']).flatten(1).all(1)
    assert len(same) == 20 and same.float().mean() >= .8

@pytest.mark.parametrize('what', ['double', 'odd', 'novices', 'changed alike', 'few classes', 'few levels', 'packed', 'packed odd'])
def test_the_steps_are_the_same(results, what):
    "Before rounding to bytes; also where the last batch leaves a rank without images. Ten or twenty steps a batch; the second batch has a history."
    one, two, _ = results
    assert one[what].shape == two[what].shape and (one[what] - two[what]).abs().max() < 1e-8

def test_twenty_steps_in_single_precision(results):
    "Adam divides a derivative by its own size, so where it is nothing but rounding a pixel takes steps of its own; on the average pixels agree to 1e-4."
    d = (results[0]['single'] - results[1]['single']).abs()
    assert d.mean() < 1e-4 and d.median() < 1e-5 and d.max() < .1

@pytest.mark.parametrize('batch,fits', [(20, True), (10, False)])
def test_continued_on_another_number_of_ranks(results, batch, fits):
    "Begun on two with ten images each, continued on one with twenty; with another batch as a whole it is refused."
    one, two, work = results; src = colours(); t = untrained(src); start = dataclasses.replace(random_set(src, 3, teacher=t), images=two['first'])
    kw = dict(target=two['real target'], batch=batch, iters=20, work=work/'half2', device='cpu')
    if not fits:
        with pytest.raises(OgmError, match='belongs to other settings'): distill(src, t, start, **kw)
        return
    seen, step = [], Synthesis.step; Synthesis.step = lambda self: seen.append(self.t) or step(self)
    try: ds = distill(src, t, start, **kw)
    finally: Synthesis.step = step
    whole = distill(src, t, start, **kw | dict(work=None)); d = (ds.images.int() - whole.images.int()).abs()
    assert len(seen) == 33 and seen[0] == 7 and d.float().mean() < .1 and (d > 1).float().mean() < .01

def test_the_images_are_the_same_up_to_rounding(results):
    "Bytes, after both batches, where every direction of the first layer has something in it."
    one, two, _ = results; d = (one['colours'].int() - two['colours'].int()).abs().float()
    assert (d > 0).float().mean() < .03 and d.mean() < .05
    assert (one['colours'] != one['first']).float().mean() > .3

def test_grey_images_stay_near_each_other(results):
    "Grey digits leave directions of the first layer to rounding, which the orthogonal factor enlarges and Adam follows: from seed to seed none or a fifth of the bytes differ, by far less than they have moved."
    one, two, _ = results
    apart, moved = ((one['set'].int() - two[k].int()).abs().float().mean() for k in ('set', 'start'))
    assert apart < 1 < moved and apart < .1*moved

@pytest.mark.parametrize('what', ['ogm-basic, hard', 'rded, soft'])
def test_the_curves_are_the_same(results, what):
    (l1, a1), (l2, a2) = (r[what] for r in results[:2])
    assert l2 == pytest.approx(l1, rel=1e-4) and a2 == pytest.approx(a1, abs=.01) and l1[-1] < l1[0]

def test_the_scores_are_the_same(results):
    one, two, work = results
    assert two['score'] == pytest.approx(one['score'], abs=.02)
    assert (one['known'], two['known']) == (one['score'], two['score'])
    a, b = (read_json(work/f'score{w}.json') for w in (1, 2))
    assert a['key'] == b['key'] and (a['world_size'], b['world_size']) == (1, 2)
    assert not list(work.glob('*.ckpt'))                        # a score on disk needs no checkpoint

def test_fewer_images_than_ranks_are_refused(results):
    one, two, _ = results
    assert 'too few' not in one and two['too few'] == '1 images cannot be shared by 2 processes: start fewer'

@pytest.fixture(scope='module')
def roads(tmp_path_factory):
    d = tmp_path_factory.mktemp('roads')
    ps = [start('-m', 'ogm', *ROAD, '--batch', 20//n, '--out', d/str(n), ranks=n) for n in (2, 1)]
    return [end(p) for p in ps][::-1], d

def test_the_whole_road_under_torchrun(roads):
    said, d = roads
    one, two = (DistilledSet.load(d/n) for n in '12')
    assert said[1].count('written to') == 1 and len(two) == len(one) == 20 and torch.equal(one.labels, two.labels)
    assert read_json(d/'2'/'ogm.json')['world_size'] == 2 and two.config['synthesis']['world_size'] == 2
    layout = [sorted(p.relative_to(d/n).as_posix() for p in (d/n).rglob('*')) for n in '12']
    assert layout[0] == layout[1] and not any('.tmp' in p for p in layout[0])

def test_torchrun_restarts_after_a_process_is_lost(roads, tmp_path):
    "One of two is killed; torchrun starts both anew, and they end in the bytes of a run that lost none."
    p = start('-m', 'ogm', *ROAD, '--batch', 10, '--out', tmp_path/'run', ranks=2, restarts=1)
    while p.poll() is None and step_of(tmp_path/'run') == 'teacher': time.sleep(.02)
    os.kill(_workers(p)[-1], signal.SIGKILL)
    said = end(p); assert 'Signal 9' in said or 'exitcode: -9' in said, said
    a, b = (contents(d) for d in (tmp_path/'run', roads[1]/'2')); assert a.keys() == b.keys()
    assert [k for k in a if a[k] != b[k]] in ([], ['ogm.json'], ['README.md', 'ogm.json'])          # where they lie is written there

def _workers(p): # pids of torchrun's processes
    return [int(k) for t in os.listdir(f'/proc/{p.pid}/task') for k in Path(f'/proc/{p.pid}/task/{t}/children').read_text().split() if b'ogm' in Path(f'/proc/{k}/cmdline').read_bytes()]

def test_the_lock_holds_for_all_ranks(roads):
    "A second start of a finished run, and one while another process holds the directory: told, and nobody hangs."
    import filelock
    _, d = roads; before = (d/'1'/'ogm.json').read_bytes()
    with filelock.FileLock(d/'1'/'.lock'):
        p = start('-m', 'ogm', *ROAD, '--out', d/'1', ranks=2); out = p.communicate(timeout=120)[0]
    lines = [l for l in out.splitlines() if l.startswith('ogm: ')]
    assert p.returncode != 0 and len(lines) == 1 and 'in use by another ogm process' in lines[0], out
    assert (d/'1'/'ogm.json').read_bytes() == before

def test_these_tests_stay_together(request):
    "Or each worker computes all of this anew: pytest 9.2 no longer lets pytest-xdist 3.8 name the group, and says nothing."
    assert request.node.nodeid.endswith('@ranks') or not getattr(request.config.option, 'loadgroup', False)

def test_more_processes_than_gpus_are_refused(monkeypatch):
    "NCCL would answer with a page about duplicates."
    from ogm.core import _backend
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1); gpu = torch.device('cuda')
    assert _backend(gpu) == 'nccl' and _backend(torch.device('cpu')) == 'gloo'
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    with pytest.raises(OgmError, match='2 processes cannot share 1 GPU: start 1'): _backend(gpu)
    assert _backend(torch.device('cpu')) == 'gloo'
