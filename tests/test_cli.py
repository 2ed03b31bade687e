"The command line: every mistake is one line on stderr and exit code 2, and the files that were there stay as they were."
import contextlib, hashlib, io, json, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
import ogm.training as ogm_training
from PIL import Image
from ogm.cli import COMMANDS, main
from ogm.core import OgmError, read_json
from ogm.distilled import DistilledSet, unfold
from ogm.experiments import read_rows, run_table

TINY = ['--arch', 'convnet1-w4', '--epochs', '1', '--iters', '1', '--device', 'cpu']

def folder(root, classes=('cat', 'dog'), n=4, side=8):
    "Class folders of n small pictures each."
    for k, c in enumerate(classes):
        (root/c).mkdir(parents=True, exist_ok=True)
        for i in range(n): Image.fromarray(np.random.default_rng(100*k + i).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(root/c/f'{i}.png')
    return root

def tree(root): return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else '' for p in sorted(Path(root).rglob('*'))}

def ogm(*words):
    "(exit code, stdout, stderr) of `ogm WORDS`, in this process."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: code = main([str(w) for w in words])
        except SystemExit as e: code = e.code
    return code, out.getvalue(), err.getvalue()

def refused(*words, says):
    "The command ends with code 2 and one line on stderr that holds every text of `says`."
    code, _, err = ogm(*words); lines = [l for l in err.splitlines() if not l.startswith('ogm: warning: ')]
    assert code == 2 and len(lines) == 1 and lines[0].startswith('ogm: ') and 'Traceback' not in err, (code, err)
    for s in [says] if isinstance(says, str) else says: assert str(s) in lines[0], lines[0]
    return err

def distil(data, out, *more): return ['distill', '--data', data, '--out', out, '--ipc', '1', *TINY, *more]

@pytest.fixture(scope='module')
def images(tmp_path_factory): return folder(tmp_path_factory.mktemp('images')/'pets')

@pytest.fixture(scope='module')
def run(images, tmp_path_factory):
    "A finished run."
    out = tmp_path_factory.mktemp('runs')/'pets'; code, said, err = ogm(*distil(images, out))
    assert code == 0 and str(out) in said, err
    return out


# ---- what the issue names

def test_missing_path(tmp_path): refused(*distil(tmp_path/'nowhere', tmp_path/'run'), says=[tmp_path/'nowhere', 'does not exist'])

def test_empty_folder(tmp_path): (tmp_path/'void').mkdir(); refused(*distil(tmp_path/'void', tmp_path/'run'), says=['void', 'holds no images'])

def test_one_class(tmp_path): refused(*distil(folder(tmp_path/'pets', ['cat']), tmp_path/'run'), says=['only one class', 'cat'])

def test_class_with_one_image(tmp_path):
    folder(tmp_path/'pets'); folder(tmp_path/'pets', ['eel'], 1); refused(*distil(tmp_path/'pets', tmp_path/'run'), says=["class 'eel'", 'single image'])

def test_class_without_images(tmp_path):
    (folder(tmp_path/'pets')/'eel').mkdir(); refused(*distil(tmp_path/'pets', tmp_path/'run'), says=['eel', 'without images'])

@pytest.mark.parametrize('init', ['rded', 'herding', 'random', 'noise'])
def test_ipc_larger_than_the_class(images, tmp_path, init):
    refused(*distil(images, tmp_path/'run', '--ipc', '4', '--init', init), says=['ipc is 4', "class 'cat' has only 3 images"])

def test_text_file_among_the_images(tmp_path):
    "Passed over when it is called a text, named and skipped when it is called a picture, refused under --strict."
    folder(tmp_path/'pets'); (tmp_path/'pets'/'cat'/'notes.txt').write_text('not a picture')
    code, _, err = ogm(*distil(tmp_path/'pets', tmp_path/'a')); assert code == 0 and 'unreadable' not in err and 'notes.txt' not in err
    (tmp_path/'pets'/'cat'/'0.png').write_text('not a picture')
    refused(*distil(tmp_path/'pets', tmp_path/'b', '--strict'), says=['cat/0.png', 'not a readable image'])
    code, out, err = ogm(*distil(tmp_path/'pets', tmp_path/'c'))
    told = [l for l in err.splitlines() if 'unreadable' in l]
    assert code == 0 and len(told) == 1 and 'warning' in told[0] and 'cat/0.png' in told[0] and '1 unreadable image skipped' in told[0] and 'written to' in out

@pytest.mark.parametrize('init', ['rded', 'random'])
def test_factor_larger_than_the_image(images, tmp_path, init):
    refused(*distil(images, tmp_path/'run', '--factor', '9', '--init', init), says=['factor 9', 'larger than the image (8 px)'])

def test_two_mosaics_in_one_image(images, tmp_path):
    "Students see each cell by itself without being told, a second run continues nothing else, and what cannot be is refused."
    run = tmp_path/'run'; assert ogm(*distil(images, run, '--factor', 2, '--init', 'random', '--chroma', 2))[0] == 0
    ds = DistilledSet.load(run); assert (ds.chroma, ds.factor, ds.ipc, ds.config['unfold'], len(unfold(ds))) == (2, 2, 1, True, 16)
    code, said, err = ogm('evaluate', run, '--epochs', 1, '--seeds', 1, '--data', images); assert code == 0 and '%' in said, err
    assert ogm('show', run, '--out', tmp_path/'two.png')[0] == 0 and Image.open(tmp_path/'two.png').size[0] > 50
    refused(*distil(images, tmp_path/'odd', '--factor', 8, '--chroma', 2), says=['cells of 1 px', 'another --factor'])
    refused(*distil(images, tmp_path/'many', '--ipc', 2, '--chroma', 2), says=['ipc is 2, of two mosaics each', 'at most 1'])
    refused(*distil(images, tmp_path/'three', '--chroma', 3), says='chroma is 3')

def test_few_levels(images, tmp_path):
    "Of what is made and of a mere start; the card says it, and another number does not continue the run."
    for run, iters in ((tmp_path/'made', 3), (tmp_path/'start', 0)):
        assert ogm(*distil(images, run, '--iters', iters, '--init', 'random', '--levels', 5))[0] == 0
        assert set(DistilledSet.load(run).images.unique().tolist()) <= {0, 64, 127, 128, 191, 255} and 'one of 5 levels' in (run/'README.md').read_text()
    refused(*distil(images, tmp_path/'one', '--levels', 1), says='levels = 1 is not possible')
    (tmp_path/'made'/'ogm.json').rename(tmp_path/'made'/'.saving'); refused(*distil(images, tmp_path/'made', '--iters', 3, '--init', 'random', '--levels', 7), says='levels')

def test_unknown_recipe(run):
    refused('evaluate', run, '--recipe', 'adan', says=["unknown recipe 'adan'", 'ogm-basic'])
    refused('evaluate', run, '--recipe', 'ogm-muon:crop=1', says=["'crop' is none of its settings", 'scale'])
    refused('train', '--data', 'digits', '--recipe', 'adan', '--arch', 'convnet1-w2', says="unknown recipe 'adan'")

def test_teacher_with_other_classes(run, tmp_path):
    folder(tmp_path/'pets', ['cat', 'eel'])
    refused(*distil(tmp_path/'pets', tmp_path/'run', '--teacher', run/'work'/'teacher.safetensors'), says=["does not know ['eel']", "the source has not ['dog']"])

def test_finished_run_as_out(run, images):
    before = tree(run); refused(*distil(images, run), says=[run, 'already holds a finished set', '--overwrite']); assert tree(run) == before

@pytest.mark.parametrize('start', [[sys.executable, '-m', 'ogm'], [str(Path(sys.executable).with_name('ogm'))]])
def test_a_real_process_says_it_too(tmp_path, start):
    if not Path(start[0]).exists(): pytest.skip('the ogm script is not installed')
    p = subprocess.run([*start, 'distill', '--data', str(tmp_path/'nowhere'), '--out', str(tmp_path/'run')], capture_output=True, text=True, timeout=300)
    assert p.returncode == 2 and p.stdout == '' and p.stderr.count('\n') == 1 and p.stderr.startswith('ogm: ') and 'nowhere' in p.stderr


# ---- what goes well

def test_a_run_and_what_can_be_done_with_it(run, tmp_path):
    assert {'ogm.json', 'images', 'data', 'README.md', 'preview.png', 'work'} <= {p.name for p in run.iterdir()}
    code, out, err = ogm('evaluate', run, '--seeds', '1', '--epochs', '1', '--device', 'cpu'); assert code == 0 and 'hard labels, n = 1' in out and not err
    assert ogm('evaluate', run, '--seeds', '1', '--recipe', 'ogm-muon:scale=0.5,epochs=2', '--device', 'cpu')[0] == 0
    f, = (Path(run)/'scores').glob('*scale*'); settings = read_json(f)['settings']; assert (settings['scale'], settings['epochs']) == (.5, 2) and ':' not in f.name
    code, out, err = ogm('evaluate', run, '--seeds', '2', '--epochs', '1', '--labels', 'soft', '--recipe', 'ogm-muon', '--device', 'cpu'); assert code == 0 and 'soft labels, n = 2' in out, err
    assert json.loads((run/'scores'/'ogm-muon-soft-convnet1-w4-1.json').read_text())['n_train'] == 2
    code, out, err = ogm('show', run, run, '--out', tmp_path/'both.png'); assert code == 0 and Image.open(tmp_path/'both.png').size[0] > 50, err

@pytest.fixture
def arithmetic(monkeypatch):
    "What each forward pass of a training was asked for: ('compile', 'amp'), in the order of the trainings."
    asked, loop = [], ogm_training._fit
    def fit(job, *args):
        made = []
        with monkeypatch.context() as m: m.setattr(torch, 'compile', lambda net, **kw: made.append(net) or net); h = loop(job, *args)
        asked.append((bool(made), job.amp)); return h
    monkeypatch.setattr(ogm_training, '_fit', fit); return asked

@pytest.mark.parametrize('more', [[], ['--amp'], ['--compile'], ['--amp', '--compile']], ids=' '.join)
def test_another_arithmetic_is_asked_for_noted_and_kept_apart(run, tmp_path, arithmetic, more):
    want = '--compile' in more, '--amp' in more; name = 'ogm-basic-hard-convnet1-w4-1' + '-amp'*want[1] + '-compiled'*want[0] + '.json'; out = tmp_path/'net'; (run/'scores'/name).unlink(missing_ok=True)
    assert ogm('evaluate', run, '--seeds', '1', '--epochs', '1', '--device', 'cpu', *more)[0] == 0 and (run/'scores'/name).exists()
    assert ogm('train', '--arch', 'convnet1-w4', '--ipc', '1', '--epochs', '1', '--out', out, '--device', 'cpu', *more)[0] == 0; told = read_json(out/'history.json'); assert (told['compile'], told['amp']) == want
    run_table('digits', out=tmp_path/'table', rows='random', ipc='1', arch='convnet1-w4', teacher_epochs=1, epochs=1, seeds=1, labels='hard', recipes='ogm-basic', device='cpu', amp=want[1], compile=want[0])
    row, = read_rows(tmp_path/'table'); assert (row['compile'], row['amp']) == want
    assert arithmetic == [want, want, (False, False), want] # the teacher of a table is taught as ever

def test_mosaics_patch_by_patch(images, tmp_path):
    assert ogm(*distil(images, tmp_path/'run', '--factor', 2, '--init', 'random'))[0] == 0
    code, out, err = ogm('evaluate', tmp_path/'run', '--seeds', '1', '--epochs', '1', '--unfold', '--device', 'cpu'); assert code == 0, err
    assert json.loads((tmp_path/'run'/'scores'/'ogm-basic-hard-convnet1-w4-1-unfolded.json').read_text())['n_train'] == 8

@pytest.mark.parametrize('name', ['$\\frac{$', 'a\nb', '<b> & *x*', '猫 \'"'])
def test_runs_of_any_name(run, tmp_path, name):
    shutil.copytree(run, tmp_path/name); code, out, err = ogm('show', tmp_path/name, '--out', tmp_path/'p.png')
    assert code == 0 and (tmp_path/'p.png').stat().st_size > 500 and all(l.startswith('ogm: warning: ') for l in err.splitlines()), err
    assert ogm('evaluate', tmp_path/name, '--seeds', '1', '--epochs', '1', '--device', 'cpu')[0] == 0

def test_train_on_a_folder(images, tmp_path):
    code, out, err = ogm('train', '--data', images, '--arch', 'convnet1-w4', '--epochs', '2', '--out', tmp_path/'net', '--device', 'cpu')
    assert code == 0 and 'after the last of 2 epochs' in out, err
    assert len(json.loads((tmp_path/'net'/'history.json').read_text())['loss']) == 2
    assert ogm(*distil(images, tmp_path/'run', '--teacher', tmp_path/'net'/'net.safetensors'))[0] == 0

def test_an_unfinished_run_goes_on_and_other_settings_do_not_mix(images, tmp_path):
    "A run without its artifact is continued by the same command, and refused with another seed."
    words = distil(images, tmp_path/'run'); assert ogm(*words)[0] == 0
    png = (tmp_path/'run'/'images'/'00000_cat'/'00000.png').read_bytes(); (tmp_path/'run'/'ogm.json').unlink()
    refused(*words, '--seed', '1', says=['was begun with seed 0 (now 1)', 'choose another --out'])
    assert ogm(*words)[0] == 0 and (tmp_path/'run'/'images'/'00000_cat'/'00000.png').read_bytes() == png
    assert ogm(*words, '--seed', '1', '--overwrite')[0] == 0 and (tmp_path/'run'/'images'/'00000_cat'/'00000.png').read_bytes() != png

def test_help_and_version():
    import ogm as package
    code, out, _ = ogm('--help'); assert code == 0 and all(f'ogm {c}' in out for c in COMMANDS)
    assert ogm('--version')[1].strip() == package.__version__ and ogm()[0] == 0
    for c, f in COMMANDS.items():
        code, out, err = ogm(c, '--help'); assert code == 0 and not err and '--debug' in out
        for n in f.__annotations__: assert f'--{n}' in out or f'--no-{n}' in out or f'\n  {n} ' in out, n


# ---- words that cannot be meant

def test_words_that_make_no_sense(images, run, tmp_path):
    refused('destill', says=["unknown command 'destill'", 'distill'])
    for words, says in [(['--ipc', 'ten'], ['ipc', 'ten', '--help']), (['--ippc', '1'], '--ippc'), (['--ipc'], 'ipc'), (['--ipc', '0'], 'ipc'), (['--ipc', '-1'], 'ipc'),
                        (['--factor', '0'], 'factor'), (['--size', '0'], 'size is 0'), (['--size', '1000000'], 'size'), (['--init', 'cat'], ['--init', 'rded']), (['--view', 'side'], 'view'),
                        (['--arch', 'resnet17'], 'resnet18'), (['--arch', 'convnet3-w1000000'], 'convnet3-w1000000'), (['--device', 'abacus'], 'abacus'), (['--epochs', '-1'], 'epochs'), (['--epochs', '0'], 'epochs'),
                        (['--iters', '-1'], 'iters'), (['--batch', '0'], 'batch'), (['--lr', 'nan'], 'lr'), (['--lr', 'inf'], 'lr'), (['--gamma', '-1'], 'gamma'), (['--gamma', 'nan'], 'gamma'),
                        (['--eps', '1'], 'eps'), (['--every', '0'], 'every'), (['--teacher', 'nowhere.safetensors'], 'nowhere'), (['--teacher', 'torchvision:resnet17'], 'resnet17')]:
        refused(*distil(images, tmp_path/'run', *words), says=says)
    refused('distill', '--data', images, '--out', images/'cat'/'0.png', *TINY, says='0.png')
    for words, says in [(['--seeds', '0'], 'seeds'), (['--seeds', '-2'], 'seeds'), (['--labels', 'firm'], 'firm'), (['--arch', '../x'], 'unknown architecture'), (['--epochs', '0'], 'epochs')]:
        refused('evaluate', run, *words, says=says)
    refused('evaluate', tmp_path, says='ogm.json'); refused('evaluate', says=['run', '--help']); refused('show', tmp_path/'none', says='none')
    refused('show', run, '--images', '0', says='images'); refused('show', run, '--classes', '0', says='classes')
    refused('demo', '--ipcs', 'one', '--out', tmp_path/'demo', says='ipcs')

def test_words_that_are_no_text(images, tmp_path):
    "Zero bytes and bytes that are not UTF-8: what a shell or a program may hand over."
    for bad in ('a\0b', 'a\udcffb'): refused(*distil(bad, tmp_path/'run'), says='a'); refused(*distil(images, tmp_path/bad), says='a')

def test_settings_and_steps_that_were_tampered_with(images, tmp_path):
    "Whatever is wrong in work/, the line names the file."
    words = distil(images, tmp_path/'run'); assert ogm(*words)[0] == 0; work = tmp_path/'run'/'work'
    for name in ('settings.json', 'start.safetensors', 'teacher.safetensors', 'target-kernel.safetensors', 'checkpoint.safetensors'):
        whole = (work/name).read_bytes(); (tmp_path/'run'/'ogm.json').unlink(missing_ok=True)
        for bad in (b'', b'[]', b'{', whole[:len(whole)//2], b'\xff'*64): (work/name).write_bytes(bad); refused(*words, says=name)
        (work/name).write_bytes(whole)
    assert ogm(*words)[0] == 0

def test_a_warning_is_said_once_by_several_processes(monkeypatch, capsys):
    from ogm.cli import _one_line
    for r in '01': monkeypatch.setenv('RANK', r); _one_line('beware', UserWarning, 'f', 1)
    assert capsys.readouterr().err == 'ogm: warning: beware\n'

def test_an_error_of_ours_is_one_line_too(monkeypatch, images):
    "Code 1, the kind of the error, and how to see more; memory that is not there is a mistake in the input."
    def breaks(e):
        def f(data:str='digits'): raise e
        return f
    for e, code, says in [(ZeroDivisionError('by\nzero'), 1, 'ZeroDivisionError: by zero'), (MemoryError(), 2, 'memory'), (torch.OutOfMemoryError('CUDA'), 2, 'memory'), (OSError(28, 'No space left on device'), 2, 'No space left')]:
        monkeypatch.setitem(COMMANDS, 'train', breaks(e)); got, _, err = ogm('train')
        assert got == code and err.count('\n') == 1 and says in err, err
        with pytest.raises(type(e)): main(['train', '--debug'])

def test_students_are_scored_on_images_that_no_one_has_seen(images, tmp_path, monkeypatch):
    "`ogm evaluate` holds out the same images as the run did, whatever its seed."
    import ogm.data as data
    opened, open_source = [], data.open_source
    monkeypatch.setattr(data, 'open_source', lambda *a, **kw: opened.append(open_source(*a, **kw)) or opened[-1])
    folder(tmp_path/'many', n=12)
    assert ogm(*distil(tmp_path/'many', tmp_path/'run', '--seed', 3))[0] == 0
    code, _, err = ogm('evaluate', tmp_path/'run', '--seeds', 1, '--epochs', 1, '--device', 'cpu'); assert code == 0, err
    made, scored = opened; same = lambda a, b: a.shape == b.shape and torch.equal(a, b)
    assert same(made.val.tensor(8), scored.val.tensor(8))
    assert not same(scored.val.tensor(8), open_source(tmp_path/'many', seed=0).val.tensor(8)), 'another seed holds out others, or this test shows nothing'


# ---- what lies where we would write, and what has changed since

@pytest.mark.parametrize('inside', ['images/beach.jpg', 'data/table.parquet', 'README.md', 'preview.png'])
def test_what_is_not_ours_stays(images, tmp_path, inside):
    "The command replaces no file that ogm did not write, and trains no teacher first."
    f = tmp_path/'holiday'/inside; f.parent.mkdir(parents=True); f.write_bytes(b'the only copy'); before = tree(tmp_path/'holiday')
    refused(*distil(images, tmp_path/'holiday'), says=[inside.split('/')[0], 'is in the way', 'choose another'])
    refused(*distil(images, tmp_path/'holiday', '--overwrite'), says='is in the way')
    assert {k: v for k, v in tree(tmp_path/'holiday').items() if k != '.lock'} == before

@pytest.mark.parametrize('out', ['.', 'run', 'cat/run'])
def test_a_run_among_its_images(tmp_path, out):
    pets = folder(tmp_path/'pets'); before = tree(pets); refused(*distil(pets, pets/out), says=['lies inside --data', 'elsewhere']); assert tree(pets) == before

def test_a_set_that_was_being_overwritten(run, tmp_path):
    "Killed while it replaces a finished set, a run is known as ours and can be made again."
    shutil.copytree(run, tmp_path/'run'); (tmp_path/'run'/'ogm.json').rename(tmp_path/'run'/'.saving'); shutil.rmtree(tmp_path/'run'/'work')
    from ogm.distilled import DistilledSet, finished
    DistilledSet.load(run).save(tmp_path/'run'); assert finished(tmp_path/'run') and not (tmp_path/'run'/'.saving').exists()

def test_a_set_killed_at_its_end(run, tmp_path, monkeypatch):
    "There is no moment at which a set is finished and still marked as being written: the mark becomes the end."
    ds, real, seen = DistilledSet.load(run), Path.replace, []
    def look(self, target):
        if self.name == '.saving': seen.append([(self.parent/n).exists() for n in ('.saving', 'ogm.json')]); real(self, target); seen.append([(Path(target).parent/n).exists() for n in ('.saving', 'ogm.json')])
        else: return real(self, target)
    monkeypatch.setattr(Path, 'replace', look); ds.save(tmp_path/'set'); assert seen == [[True, False], [False, True]] and torch.equal(DistilledSet.load(tmp_path/'set').images, ds.images)

def test_a_folder_that_changed(tmp_path):
    "It does not continue a run of its old self, and the scores of a finished one are kept beside the new."
    pets, new = folder(tmp_path/'pets', n=10), np.random.default_rng(9).integers(0, 256, (8, 8, 3), dtype=np.uint8); assert ogm(*distil(pets, tmp_path/'a'))[0] == ogm(*distil(pets, tmp_path/'b'))[0] == 0
    score = ['evaluate', tmp_path/'a', '--seeds', '1', '--epochs', '1', '--device', 'cpu']; assert ogm(*score)[0] == 0; (tmp_path/'b'/'ogm.json').unlink()
    Image.fromarray(new).save(pets/'cat'/'new.png'); refused(*distil(pets, tmp_path/'b'), says='was begun with images (fingerprint)')
    code, said, _ = ogm(*score); assert code == 0 and 'has changed since the set was made' in said and len(list((tmp_path/'a'/'scores').glob('*.json'))) == 2
    (pets/'cat'/'new.png').unlink(); assert ogm(*distil(pets, tmp_path/'b'))[0] == 0 and 'has changed' not in ogm(*score)[1]

def test_a_plan_over_a_finished_set(run, images):
    before = tree(run); plan = [*distil(images, run), '--plan']; code, said, _ = ogm(*plan); assert code == 0 and 'holds a finished set already' in said and 'give --overwrite' in said
    assert 'would be replaced' in ogm(*plan, '--overwrite')[1] and 'finished set' not in ogm(*distil(images, run.parent/'new'), '--plan')[1] and tree(run) == before

def test_a_demo_holds_its_directory(tmp_path):
    from ogm.core import run_lock
    with run_lock(tmp_path/'demo'): refused('demo', '--out', tmp_path/'demo', '--seeds', 1, '--iters', 1, '--epochs', 1, says='is in use by another ogm process')

def test_other_judges_are_counted(run, tmp_path):
    "A folder of test images alone is divided like any other, which is said."
    code, said, _ = ogm('evaluate', run, '--data', folder(tmp_path/'test', n=10), '--seeds', 1, '--epochs', 1, '--device', 'cpu'); assert code == 0 and 'test: 16 train and 4 validation images of 2 classes: scored on the latter' in said

def test_nothing_to_score_on(run, tmp_path): refused('evaluate', run, '--data', run, '--epochs', '1', says='no images to score on')

def test_a_moved_run_says_what_is_missing(images, tmp_path):
    pets = shutil.copytree(images, tmp_path/'pets'); assert ogm(*distil(pets, tmp_path/'run'))[0] == 0; shutil.rmtree(pets)
    refused('evaluate', tmp_path/'run', says=[pets, 'was made of cannot be opened', 'give --data'])

def test_a_trained_network_is_not_replaced(images, tmp_path):
    words = ['train', '--data', images, '--out', tmp_path/'net', '--arch', 'convnet1-w4', '--epochs', '1', '--device', 'cpu']; assert ogm(*words)[0] == 0
    before = tree(tmp_path/'net'); refused(*words, says='already holds a trained network'); assert tree(tmp_path/'net') == before

def test_a_set_of_an_earlier_version(run, tmp_path):
    "It has no fingerprint; that is said, and it is scored all the same."
    shutil.copytree(run, tmp_path/'run'); f = tmp_path/'run'/'ogm.json'; info = read_json(f); assert len(info['config'].pop('images')) == 16; f.write_text(json.dumps(info))
    code, said, _ = ogm('evaluate', tmp_path/'run', '--seeds', '1', '--epochs', '1', '--device', 'cpu'); assert code == 0 and 'does not say which images were held out' in said and ' %' in said

def test_two_runs_of_one_name_are_both_shown(run, tmp_path):
    "They are told apart by their paths."
    twins = [tmp_path/d/'same' for d in 'ab']; [shutil.copytree(run, t) for t in twins]; width = lambda *words: (ogm('show', *words, '--out', tmp_path/'p.png'), Image.open(tmp_path/'p.png').width)[1]
    assert width(*twins) > 1.5*width(twins[0])

@pytest.mark.parametrize('words,says', [(['train', '--data', 'digits', '--ipc', '0'], 'ipc is 0'), (distil('digits', ''), "names no directory"), (['show', 'RUN', '--out', 'a.jpg'], 'call it a.png'), (['demo', '--ipcs', '1,200'], 'has only'), (['demo', '--ipcs', '1,x'], 'whole numbers from 1')], ids=lambda v: v[0] if isinstance(v, list) else '')
def test_said_before_any_work(words, says, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); refused(*[run if w == 'RUN' else w for w in words], says=says); assert not list(tmp_path.iterdir())

def small(seed, n=4): return DistilledSet(torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)), torch.arange(n) % 2, ['a', 'b'])

def test_a_finished_set_outlives_an_overwriting_that_fails(tmp_path, monkeypatch):
    small(0).save(tmp_path/'set'); was = tree(tmp_path/'set')
    def full(*a): raise OSError(28, 'No space left on device')
    for part in ('_images', '_write_parquet', 'card'):
        with monkeypatch.context() as m, pytest.raises(OgmError, match='No space left'): m.setattr(f'ogm.distilled.{part}', full); small(1).save(tmp_path/'set', overwrite=True)
        assert tree(tmp_path/'set') == was, part
    odd = small(1); odd.classes = ['a\udcff', 'b']
    with pytest.raises(OgmError, match='is not written'): odd.save(tmp_path/'set', overwrite=True)
    assert tree(tmp_path/'set') == was and torch.equal(DistilledSet.load(tmp_path/'set').images, small(0).images)

def test_a_set_that_was_set_aside_is_put_back_or_told_of(tmp_path, monkeypatch):
    out = tmp_path/'run'; words = ['distill', '--out', out, '--ipc', '1', '--init', 'random', *TINY]; assert ogm(*words)[0] == 0; was = DistilledSet.load(out).images
    again = [*words, '--overwrite', '--seed', '1']
    def nan(*a, **kw): raise OgmError('synthesis stopped: not a number')
    def stop(*a, **kw): raise KeyboardInterrupt
    def full(*a, **kw): raise OgmError('cannot write: No space left on device')
    with monkeypatch.context() as m: m.setattr('ogm.synthesis.Synthesis.run', nan); code, _, said = ogm(*again)
    assert code == 2 and '.before' not in said and torch.equal(DistilledSet.load(out).images, was)
    for who, what, told in (('ogm.synthesis.Synthesis.run', stop, ''), ('ogm.synthesis.Synthesis.run', nan, "not a number; the set that was there lies in"), ('ogm.distilled.DistilledSet.save', full, "No space left on device; the set that was there lies in")):
        with monkeypatch.context() as m: m.setattr(who, what); code, _, said = ogm(*again)
        assert code == (2 if told else 130) and told in said and torch.equal(DistilledSet.load(out/'.before').images, was), said
    assert ogm(*again)[0] == 0 and not (out/'.before').exists() and not torch.equal(DistilledSet.load(out).images, was)

def test_scores_go_on_however_their_settings_were_said(tmp_path, monkeypatch):
    import ogm.evaluation as E
    ds, val, kw = small(0, 8), small(1, 12).split, dict(arch='convnet1-w4', device='cpu', out=tmp_path/'s.json'); n = 0
    def student(*a, **k): nonlocal n; n += 1; return was(*a, **k)
    was = E._student; monkeypatch.setattr(E, '_student', student); first = E.evaluate(ds, val, 'ogm-basic:epochs=2', seeds=1, **kw)
    for said in (dict(epochs=None), dict(workers=0), dict(epochs=2), dict(save_every=1)): assert E.evaluate(ds, val, 'ogm-basic:epochs=2', seeds=1, **kw | said).last == first.last
    assert n == 1 and E.evaluate(ds, val, 'ogm-basic', epochs=2, seeds=2, **kw).last[0] == first.last[0] and n == 2
    with pytest.raises(OgmError, match='other images or settings'): E.evaluate(ds, val, 'ogm-basic:epochs=3', seeds=1, **kw)
    for bad in (dict(size=0), dict(mean=(0, None, 1)), dict(mean='abc')):
        with pytest.raises(OgmError, match='size is 0|is not possible'): E.evaluate(ds, val, 'ogm-basic:epochs=2', **kw | bad)

def test_scores_of_an_older_version_go_on(tmp_path, monkeypatch):
    "Whose key held what had not been asked for, too."
    import ogm.evaluation as E
    ds, val, kw = small(0, 8), small(1, 12).split, dict(arch='convnet1-w4', device='cpu', out=tmp_path/'s.json'); E.evaluate(ds, val, 'ogm-basic:epochs=2', seeds=1, **kw)
    old = read_json(tmp_path/'s.json'); old['key'] = E._key(ds, val, recipe=E.get_recipe('ogm-basic:epochs=2').told(), labels='hard', arch='convnet1-w4', mean=ds.mean, std=ds.std, size=8, teacher='', kw=dict(epochs=None)); (tmp_path/'s.json').write_text(json.dumps(old))
    monkeypatch.setattr(E, '_student', None); E.evaluate(ds, val, 'ogm-basic:epochs=2', seeds=1, **kw)

def test_odd_devices_and_rows_are_refused(tmp_path):
    from ogm.core import pick_device; from ogm.synthesis import Row, find_row
    for f, says in ((lambda: pick_device('meta'), 'cannot be used'), (lambda: find_row(Row(synthesis=dict(foo=1), title='x')), "'foo'"), (lambda: find_row(Row(synthesis=dict(seed=3), title='x')), 'of the run')):
        with pytest.raises(OgmError, match=says): f()
