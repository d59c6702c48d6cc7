"""The engine that a network was prepared for."""

from pipeline.model.engine import Engine, Prepared


def load_engine(prepared: Prepared) -> Engine:
    """The engine of a prepared network. Imports only this engine."""
    if prepared.engine == "torch":
        from pipeline.model.torch_engine import TorchEngine

        return TorchEngine(prepared)
    from pipeline.model.openvino_engine import OpenVINOEngine

    return OpenVINOEngine(prepared)
