"""You see a Lightning training that says, while it runs, that class weights are applied twice.

They are in the loss and in the sampler. `BalanceCallback` says so in its warnings, and in the numbers that it logs
after each epoch.

python examples/lightning_balance.py
"""

import logging
import tempfile
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import steelyard
from steelyard.integrations.lightning import BalanceCallback

COUNTS = [2000, 400, 100]


class Classifier(pl.LightningModule):
    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
        self.loss = loss

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    pl.seed_everything(0, verbose=False)
    target = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    inputs = torch.randn(len(target), 8) + 1.2 * torch.eye(8)[target]
    weights = steelyard.class_weights(COUNTS, "balanced")
    loss = steelyard.SoftmaxLoss(class_weights=weights, normalization="count")
    sampler = WeightedRandomSampler(weights[target].tolist(), len(target))  # the second time
    setup = steelyard.TrainingSetup(loss, class_counts=COUNTS, class_names=["common", "rare", "rarest"])
    watch = BalanceCallback(setup)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=8,
            callbacks=[watch],
            logger=CSVLogger(folder),
            log_every_n_steps=10,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Classifier(loss), DataLoader(TensorDataset(inputs, target), 50, sampler=sampler))
        logged = Path(trainer.logger.log_dir, "metrics.csv").read_text().splitlines()
    print("logged:", logged[0])
    for reading in watch.readings:
        print(reading)


if __name__ == "__main__":
    main()
