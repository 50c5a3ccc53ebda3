"What people call because fastai has it: it works, or says in one sentence what to use"
import pytest
from fastai.callback.mixup import CutMix, MixUp
from fastai.interpret import Interpretation
from ssd_fastai.all import *

@pytest.fixture(scope='module')
def learn(train, valid):
    set_seed(1)
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:5], size=64, bs=4)
    return ssd_learner(dls, 'resnet10t', pretrained=False, precision='fp32')

@pytest.mark.parametrize('cb', [MixUp,CutMix])
def test_blending_photos_is_refused(learn, cb):
    with pytest.raises(ValueError, match='boxes do not allow.*ssd_tfms'), learn.no_bar(): learn.fit(1, cbs=cb())

def test_losses_of_single_photos(learn):
    with learn.no_bar(): _,_,losses = learn.get_preds(with_loss=True)
    assert losses.shape==(5,) and losses.isfinite().all()

def test_interpretation_finds_and_points_to_what_can_draw(learn):
    with learn.no_bar():
        interp = Interpretation.from_learner(learn)
        losses,idxs = interp.top_losses(3)
        assert len(losses)==3 and sorted(losses.tolist(),reverse=True)==losses.tolist()
        with pytest.raises(NotImplementedError, match='learn.mistakes'): interp.plot_top_losses(3)

def test_tta_is_refused(learn):
    with pytest.raises(NotImplementedError, match='learn.predict'): learn.tta()
