import os
from pathlib import Path
import matplotlib, pytest
matplotlib.use('Agg')
from ssd_fastai.all import *

@pytest.fixture(scope='session')
def cells(): return make_cells()

@pytest.fixture(scope='session')
def train(cells): return read_coco(cells/'train.json', cells/'images')

@pytest.fixture(scope='session')
def valid(cells): return read_coco(cells/'valid.json', cells/'images')

@pytest.fixture(scope='session')
def bccd():
    data = os.environ.get('SSD_FASTAI_DATA')
    if not data: pytest.skip('SSD_FASTAI_DATA is not set: it is the folder that holds bccd/')
    return Path(data)/'bccd'

def pytest_collection_modifyitems(items):
    "fastai's own `test_eq` and friends arrive with the star imports: they are no tests"
    items[:] = [i for i in items if i.function.__module__==i.module.__name__]
