"""You see a network of plain torch from training to decision, with class weights and without their harm.

The script trains on three classes (90%, 8%, 2%) with inverse class weights, and audits them. Then it decides on
new rows. There, to miss the rarest class costs fifty times as much as any other error. If the classes are as
frequent as in training, taking the weights out more than halves the cost. If they have other frequencies, these
are estimated without labels, and only the probabilities that use them are right.

python examples/undo_and_decide.py
"""

import torch
from torch import nn

from steelyard import (
    SoftmaxLoss,
    TrainingSetup,
    audit,
    class_counts,
    class_weights,
    decide,
    estimate_prior,
    log_posterior,
)

SHARES = torch.tensor([0.9, 0.08, 0.02])
NAMES = ["common", "rare", "rarest"]
COSTS = torch.tensor([[0.0, 1, 1], [1, 0, 1], [50, 50, 0]])  # row: the true class; column: what is decided


def draw(rows: int, shares: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels of three classes that overlap."""
    target = torch.multinomial(shares, rows, replacement=True, generator=generator)
    return 1.6 * torch.eye(3)[target] + torch.randn(rows, 3, generator=generator), target


def train(loss: nn.Module, inputs: torch.Tensor, target: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(400):  # all rows at once
        optimizer.zero_grad()
        loss(network(inputs), target).backward()
        optimizer.step()
    return network.eval()


def shown(numbers: torch.Tensor) -> str:
    return ", ".join(f"{number:.3f}" for number in numbers.tolist())


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, target = draw(4000, SHARES, generator)
    counts = class_counts(target, num_classes=3)
    loss = SoftmaxLoss(class_weights=class_weights(counts, "inverse"))
    network = train(loss, inputs, target)
    setup = TrainingSetup(loss, class_counts=counts, class_names=NAMES)
    with torch.no_grad():
        print(f"training rows {counts.tolist()}; {audit(network(inputs), target, setup).headline}\n")

        for name, shares in (("as in training", SHARES), ("after a change", torch.tensor([0.6, 0.25, 0.15]))):
            new, truth = draw(20_000, shares, generator)
            z = network(new)
            found = estimate_prior(log_posterior(z, setup), class_counts=counts)  # no labels
            answers = {
                "softmax of the logits": torch.log_softmax(z, 1),
                "weights taken out": log_posterior(z, setup),
                "and the prior estimated": log_posterior(z, setup, prior=found.prior),
            }
            print(f"{name}: the classes are {shown(shares)}, estimated {shown(found.prior)}")
            for words, q in answers.items():
                right = (decide(q) == truth).double().mean()
                cost = COSTS[truth, decide(q, costs=COSTS)].mean()
                print(
                    f"  {words:24} claims {shown(q.exp().mean(0))}   right {right:.3f}   cost of a row {cost:.3f}"
                )


if __name__ == "__main__":
    main()
