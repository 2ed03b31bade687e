"Package metadata: read from settings.ini, the one place where it is written down."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='])
cfg.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

def readme(url, branch):
    "README.md with addresses that also hold on PyPI: pictures as files, the rest as pages on GitHub."
    text = (Path(__file__).parent/'README.md').read_text(encoding='utf-8')
    return re.sub(r'(!?)(\[[^\]]*\])\((?!\w+:|#)', lambda m: f"{m[1]}{m[2]}({url}/{'raw' if m[1] else 'blob'}/{branch}/", text)

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], author=cfg['author'],
    author_email=cfg['author_email'], url=cfg['git_url'], license='Apache-2.0', keywords=cfg['keywords'],
    long_description=readme(cfg['git_url'], cfg['branch']), long_description_content_type='text/markdown',
    packages=find_packages(include=['ogm', 'ogm.*']), python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require={'dev': cfg['dev_requirements'].split(), 'lab': cfg['lab_requirements'].split()},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False)
