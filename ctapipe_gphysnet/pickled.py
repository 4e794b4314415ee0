"""γ-PhysNet for the stock ctapipe-apply-models.

That tool reads pickled reconstructors, each for one property of the shower,
and hands the same tables of telescope events to one after the other. The
pickles made here hold no network, but the model file's place and identity.
Those of one run share one `GammaPhysNetReconstructor` and its results, so that
an image goes through the network once.
"""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from weakref import WeakValueDictionary

import astropy.units as u
import joblib
import numpy as np
from astropy.table import Table
from ctapipe.core import ToolConfigurationError
from ctapipe.reco.reconstructor import Reconstructor
from ctapipe.reco.utils import add_defaults_and_meta

from .assignment import table_meta
from .checkpoint import card_identity, read_card, read_model
from .combination import weight_columns
from .files import replaced_when_whole
from .products import PREFIX, PRODUCTS, physical_columns
from .quality import is_calibration
from .reconstructor import GammaPhysNetReconstructor
from .resources import find_model, model_names

__all__ = ["PickledProduct", "export", "pickle_paths"]

NEEDED_COLUMNS = (
    "image",
    "peak_time",
    "telescope_pointing_altitude",
    "telescope_pointing_azimuth",
    "event_type",
)
# Images that are prepared for the network at once: 15 MB a thousand of LST-1.
BLOCK = 1024


class PickledProduct(Reconstructor):
    """One product of a model, in the way ctapipe-apply-models wants it.

    Options are those of `GammaPhysNetReconstructor`, which does the work. They
    come from the configuration of the tool that reads the pickle.

    Parameters
    ----------
    prefix : str
        Of a product in `ctapipe_gphysnet.products.PRODUCTS`.
    model : str
        Name of a model that comes with the package, or absolute path.
    identity : str
        SHA-256 of the model's card.

    Raises
    ------
    ToolConfigurationError
        Also when it is read from a pickle: if there is no such model file, or
        if it holds another model.
    """

    needs_atmosphere_profile = False

    def __init__(self, prefix, model, identity):
        super().__init__(subarray=_AnySubarray())
        self.prefix, self.model, self.identity = prefix, model, identity
        (self.product,) = (p for p in PRODUCTS if p.prefix == prefix)
        self._inference = None
        _verify(model, identity)

    def __reduce__(self):
        # nothing of ctapipe's own state, so that any version of it can read the pickle
        return type(self), (self.prefix, self.model, self.identity)

    def __repr__(self):
        return f"<{self.prefix} of {self.model}>"  # in ctapipe's warnings

    def __call__(self, event):
        """Refuse single events, which ctapipe-apply-models never asks for.

        Raises
        ------
        ToolConfigurationError
        """
        raise ToolConfigurationError(
            "a pickled product is for ctapipe-apply-models; ctapipe-process has"
            " GammaPhysNetReconstructor"
        )

    @property
    def inference(self):
        """What the pickles of a run share, made when it is first needed."""
        # n_jobs, configuration and subarray are known only after unpickling
        if self._inference is None:
            self._inference = SharedInference.of(self)
        return self._inference

    @property
    def stereo_combiner(self):
        """Makes array-wise tables of telescope-wise ones."""
        return self.inference.combiner(self.product)

    def predict_table(self, key, table):
        """DL2 columns of telescope events.

        Parameters
        ----------
        key : ctapipe.instrument.TelescopeDescription
        table : astropy.table.Table, N rows
            Images, pointing and what the quality criteria need, of telescopes
            of this type. The model's name and identity are put in its header.

        Returns
        -------
        dict of ReconstructionProperty to astropy.table.Table, N rows
            NaN and not valid where an event fails the quality criteria.

        Raises
        ------
        KeyError
            If the model is not for telescopes of this type, but for others of
            the subarray. ctapipe says so and goes on.
        ToolConfigurationError
            If the model is for no telescope of the subarray, or if columns
            are missing.
        """
        inference = self.inference
        if not inference.has_model(key):
            raise KeyError(f"no model for telescopes of type {key}")
        _verify_columns(table)
        usable, columns = inference.columns(key, table)
        table.meta.update(inference.table_meta(self.product))
        result = _product_table(self.product, usable, columns[self.product.task])
        return {self.product.property: result}


class _AnySubarray:
    """The subarray of a pickle, until ctapipe attaches that of the events.

    ctapipe compares the types of telescopes and warns if they differ. A model
    is not bound to these, but to a camera, and that is compared later.
    """

    class _AnyTypes:
        def __ne__(self, other):
            return False

    telescope_types = _AnyTypes()


def _verify(model, identity):
    """Raise if the model file is not the one that was exported."""
    try:
        path = find_model(model)
        found = card_identity(read_card(path))
    except (OSError, ValueError) as error:
        raise ToolConfigurationError(
            f"The model that was exported was moved or damaged, export it again: {error}"
        ) from error
    if found != identity:
        raise ToolConfigurationError(
            f"{path} is not the model that was exported, export it again: its identity"
            f" is {found}, that in the pickle {identity}"
        )


def _verify_columns(table):
    # a KeyError would be shown as "No model"
    missing = [name for name in NEEDED_COLUMNS if name not in table.colnames]
    if missing:
        raise ToolConfigurationError(
            f"The events have no {', '.join(missing)}: γ-PhysNet needs"
            " --TableLoader.dl1_images=True, and an input file with DL1 images"
        )


def _product_table(product, usable, columns):
    """Columns of a product for all events, in the order of its container."""
    prefix = f"{product.prefix}_tel"
    table = Table()
    for name, nothing in {**product.nothing, "is_valid": False}.items():
        values = np.full_like(columns[name], nothing, shape=len(usable))
        values[usable] = columns[name]
        table[f"{prefix}_{name}"] = values
    return _whole(table, product, prefix)


class SharedInference:
    """One network for the pickles of a run, and its latest results.

    Parameters
    ----------
    reconstructor : GammaPhysNetReconstructor
        With one model. Has the options and the subarray.
    """

    _made = WeakValueDictionary()  # so that it ends with the last pickle

    def __init__(self, reconstructor):
        self._reconstructor = reconstructor
        telescopes = reconstructor.subarray.tel
        self._by_type = {
            telescopes[tel_id]: assignment
            for tel_id, assignment in reconstructor.assignments.items()
        }
        self._latest = OrderedDict()

    @classmethod
    def of(cls, pickled):
        """That of a pickle's model and subarray, made by the first that asks."""
        # it holds the subarray, so the id stays that of this one
        key = (pickled.model, pickled.identity, id(pickled.subarray))
        made = cls._made.get(key)
        if made is None:
            if pickled.parent is not None:
                pickled.config = pickled.parent.config
            made = cls._made[key] = cls(
                GammaPhysNetReconstructor(
                    pickled.subarray,
                    parent=pickled,
                    models=[pickled.model],
                    prefix=PREFIX,
                    n_jobs=pickled.n_jobs,
                )
            )
        return made

    def has_model(self, telescope):
        """Whether the model is for telescopes of a type."""
        return telescope in self._by_type

    def table_meta(self, product):
        """Name and identity of the model, for the header of a table."""
        assignments = self._reconstructor.assignments
        (predictor,) = {a.predictor for a in assignments.values()}
        return table_meta(product, [predictor], assignments)

    def combiner(self, product):
        """See `TableCombiner`."""
        combiner = self._reconstructor.combiners[product.prefix]
        return TableCombiner(combiner, self.table_meta(product))

    def columns(self, telescope, table):
        """Products of all events that are good enough.

        Parameters
        ----------
        telescope : ctapipe.instrument.TelescopeDescription
            One that has a model.
        table : astropy.table.Table, N rows

        Returns
        -------
        usable : ndarray of bool, shape (N,)
            Whether an event goes through the network.
        columns : dict of str to dict
            Of M usable events, see `ctapipe_gphysnet.products.physical_columns`.
        """
        passed = self._reconstructor.quality_query.passed(table)
        usable = passed & ~np.isnan(table["image"]).all(axis=1)
        usable &= ~is_calibration(table["event_type"])
        assignment = self._by_type[telescope]
        return usable, physical_columns(
            self._raw(assignment, table, usable),
            assignment.match.angle_scale,
            self._positions(table["tel_id"][usable]),
            table["telescope_pointing_altitude"].quantity[usable],
            table["telescope_pointing_azimuth"].quantity[usable],
        )

    def _positions(self, tel_ids):
        """Positions of telescopes in the ground frame, shape (N, 3)."""
        positions = self._reconstructor.subarray.positions
        unique, rows = np.unique(np.asarray(tel_ids), return_inverse=True)
        known = [positions[tel_id].to_value(u.m) for tel_id in unique]
        return np.reshape(known, (-1, 3))[rows] * u.m

    def _raw(self, assignment, table, usable):
        """Raw outputs of the network, kept for the other pickles."""
        charge, time = np.asarray(table["image"]), np.asarray(table["peak_time"])
        # all that they depend on, so they cannot be those of other events
        key = joblib.hash((assignment.match.permutation, usable, charge, time))
        if key not in self._latest:
            self._latest[key] = _predict(assignment, charge, time, usable)
        self._latest.move_to_end(key)
        # ctapipe goes through all telescopes with one pickle before it takes the next
        if len(self._latest) > len(self._reconstructor.subarray):
            self._latest.popitem(last=False)
        return self._latest[key]


def _predict(assignment, charge, time, usable):
    """Raw outputs of the usable events; prepares a block of images at a time."""
    rows = np.flatnonzero(usable)
    blocks = []
    for start in range(0, max(len(rows), 1), BLOCK):
        block = rows[start : start + BLOCK]
        predictor = assignment.predictor
        images = predictor.prepare(charge[block], time[block], assignment.match)
        blocks.append(predictor.predict(images))
    return {task: np.concatenate([raw[task] for raw in blocks]) for task in blocks[0]}


class TableCombiner:
    """Makes the array-wise table of a product, as ctapipe-apply-models calls it.

    Parameters
    ----------
    combiner : ctapipe_gphysnet.combination.ProductCombiner
    meta : dict
        For the header of the table.
    """

    def __init__(self, combiner, meta):
        self._combiner, self._meta = combiner, meta
        self.prefix = combiner.product.prefix
        self.property = combiner.product.property

    def predict_table(self, mono_predictions):
        """Mean of the valid telescopes of every array event.

        Parameters
        ----------
        mono_predictions : astropy.table.Table, N rows
            Telescope events, those of an array event side by side. Where a
            telescope has no model the product's columns are masked, or missing.

        Returns
        -------
        astropy.table.Table
            A row for every array event.
        """
        keys = mono_predictions["obs_id", "event_id"]
        starts = np.ones(len(keys), dtype=bool)
        starts[1:] = (np.diff(keys["obs_id"]) != 0) | (np.diff(keys["event_id"]) != 0)
        event, n_events = np.cumsum(starts) - 1, np.count_nonzero(starts)
        prefix, product = f"{self.prefix}_tel", self._combiner.product
        valid = np.zeros(len(keys), dtype=bool)
        if f"{prefix}_is_valid" in mono_predictions.colnames:
            valid = np.ma.filled(mono_predictions[f"{prefix}_is_valid"], False)
        columns = {
            name: _values(mono_predictions, f"{prefix}_{name}", valid, nothing)
            for name, nothing in product.nothing.items()
            if name in product.averaged
        }
        if self._combiner.needs_parameters:
            columns.update(weight_columns(_without_images(mono_predictions)[valid]))
        combined = self._combiner.combine_table(event[valid], columns, n_events)

        telescopes = [[] for _ in range(n_events)]
        for i, tel_id in zip(event[valid], mono_predictions["tel_id"][valid]):
            telescopes[i].append(tel_id)
        table = keys[starts]
        for name, values in combined.items():
            table[f"{self.prefix}_{name}"] = values
        table[f"{self.prefix}_is_valid"] = [len(tel_ids) > 0 for tel_ids in telescopes]
        table[f"{self.prefix}_telescopes"] = telescopes
        table.meta = dict(self._meta)
        return _whole(table, product, self.prefix)


def _values(table, name, rows, nothing):
    """Rows of a column that may be masked elsewhere, or missing if there are no rows."""
    if name not in table.colnames:
        return np.full_like(nothing, nothing, shape=np.count_nonzero(rows))
    values = np.asarray(table[name][rows])
    unit = table[name].unit
    return values if unit is None else u.Quantity(values, unit)


def _without_images(table):
    return table[[name for name in table.colnames if table[name].ndim == 1]]


def _whole(table, product, prefix):
    """A table with all columns of a product, in the order of its container."""
    is_telescope_wise = prefix != product.prefix
    add_defaults_and_meta(table, product.container, product.prefix, is_telescope_wise)
    names = [f"{prefix}_{name}" for name in product.container.fields]
    keys = [name for name in table.colnames if name in ("obs_id", "event_id")]
    return table[keys + [name for name in names if name in table.colnames]]


def pickle_paths(folder, overwrite=False):
    """Files that an export to a folder may write.

    Parameters
    ----------
    folder : path-like
    overwrite : bool
        Whether they may exist.

    Returns
    -------
    paths : dict of str to pathlib.Path
        By prefix of the product.

    Raises
    ------
    FileExistsError
    """
    folder = Path(folder)
    paths = {product.prefix: folder / f"{product.property}.pkl" for product in PRODUCTS}
    for path in paths.values():
        if path.exists() and not overwrite:
            raise FileExistsError(
                f"{path} exists; choose another folder or give --overwrite"
            )
    return paths


def export(model, folder, overwrite=False):
    """Write a pickle for every product of a model.

    Parameters
    ----------
    model : str or path-like
        Name of a model that comes with the package, or path of a model file.
    folder : path-like
        Where to; it is made if need be.
    overwrite : bool
        Replace pickles of an earlier export.

    Returns
    -------
    paths : list of pathlib.Path

    Raises
    ------
    FileExistsError
        If there are pickles of an earlier export.
    OSError, ModelFileError
        If there is no such model, or it is damaged.
    """
    paths = pickle_paths(folder, overwrite)
    path = find_model(model)
    loaded = read_model(path)
    reference = os.fspath(model)
    if reference not in model_names():
        reference = str(path.absolute())
    tasks = loaded.network.options.tasks
    contents = {
        paths[product.prefix]: pickle.dumps(
            PickledProduct(product.prefix, reference, loaded.identity)
        )
        for product in PRODUCTS
        if product.task in tasks
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path in paths.values():
        path.unlink(missing_ok=True)  # an earlier model may have known more products
    for path, content in contents.items():
        with replaced_when_whole(path) as aside:
            aside.write_bytes(content)
    return list(contents)
