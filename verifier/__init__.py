"""A formal verifier of neural networks: can any allowed change of this input make the network do what it must not?

    from verifier.certified import verify_certified
    from verifier.data import load_dataset
    from verifier.load import load
    from verifier.spec.robustness import local_robustness

    model, data = load("models/digits_mlp.pt"), load_dataset("digits")
    prop = local_robustness(data.images[0].numpy(), label=0, eps="0.05", classes=10)
    found = verify_certified(model, prop)
    print(found.result.label, found.result.proved)

Where to begin: `load.load`, `load.load_module` (networks), `data.load_dataset` (inputs),
`spec.robustness.local_robustness`, `spec.vnnlib.read_vnnlib` (what is to be proved), `certified.verify_certified`
(a verdict with a certificate), `strategy.verify` (one without), `strategy.Settings` (time, method, solver),
`radius.radius` (the largest safe eps), `bounds.methods.METHODS` (bounds, batched and differentiable),
`certificate.checker.check` (an independent check), `train.losses` (certified training).
"""
