"The workflows for GitHub can be read, and what they call exists here."
import configparser, re, shutil, sys
from pathlib import Path

import pytest, yaml

from conftest import ROOT

FLOWS = {p.stem: yaml.safe_load(p.read_text(encoding='utf-8')) for p in sorted((ROOT/'.github'/'workflows').glob('*.yml'))}
STEPS = [(name, step) for name, flow in FLOWS.items() for job in flow['jobs'].values() for step in job['steps']]

def settings(): c = configparser.ConfigParser(delimiters=['=']); c.read(ROOT/'settings.ini', encoding='utf-8'); return c['DEFAULT']

def test_every_job_has_a_machine_and_an_end():
    for name, flow in FLOWS.items():
        assert True in flow and flow['permissions'], f'{name}: YAML reads the key "on" as true; permissions are named'
        for job in flow['jobs'].values(): assert job['runs-on'] and job['steps']
    assert set(FLOWS) == {'docs', 'release', 'test'}

@pytest.mark.parametrize('name,step', STEPS, ids=lambda x: x if isinstance(x, str) else x.get('name', x.get('uses', x.get('run')))[:40])
def test_what_a_step_calls_exists(name, step):
    if 'uses' in step: assert re.fullmatch(r'[\w.-]+(/[\w.-]+)+@[\w./-]+', step['uses']), f'{name}: {step["uses"]}'; return
    for line in step['run'].splitlines():
        for command in filter(None, re.split(r'\s*&&\s*', line.strip())):
            word, *rest = command.split()
            if word.startswith('.'): assert (ROOT/word).is_file() and (ROOT/word).stat().st_mode & 0o100, f'{name}: {word}'
            elif word not in ('python', 'test'): assert shutil.which(word, path=Path(sys.executable).parent), f'{name}: {word} is not installed by .[dev]'
            for path in re.findall(r'\btests/\S+', command): assert (ROOT/path).exists(), f'{name}: {path}'

def test_the_matrix_covers_what_is_promised():
    "From the oldest Python of settings.ini on, and the three systems."
    matrix = FLOWS['test']['jobs']['test']['strategy']['matrix']
    systems = set(matrix['os']) | {m['os'] for m in matrix['include']}
    assert matrix['python'][0] == settings()['min_python'] and {'3.10', '3.11', '3.12', '3.13'} <= set(matrix['python'])
    assert {s.split('-')[0] for s in systems} == {'ubuntu', 'macos', 'windows'}

def test_releases_are_trusted_not_passworded():
    "Publishing happens from a tag, with an identity in place of a secret, after the tests; pages are deployed from the build."
    release, pages = FLOWS['release'], FLOWS['docs']
    assert release[True]['push']['tags'] and release['jobs']['publish']['permissions'] == {'id-token': 'write'} and release['jobs']['publish']['needs'] == 'build'
    assert any(s.get('run') == '.ci/run' for s in release['jobs']['build']['steps']) and pages['permissions']['pages'] == 'write'
    assert not re.search(r'secrets\.|password', '\n'.join(p.read_text(encoding='utf-8') for p in (ROOT/'.github'/'workflows').glob('*.yml')))
    assert settings()['doc_path'] in str(pages['jobs']['build']['steps']), 'the folder that nbdev_docs writes is the one that is uploaded'
