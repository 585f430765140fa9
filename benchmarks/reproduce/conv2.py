"""Frankle & Carbin 2019, figure 5, Conv-2 on CIFAR-10: the protocol of `lottery_ticket`, with its own settings.

python -m benchmarks.reproduce.conv2 --data PATH --out FOLDER [--full]
"""

from benchmarks.reproduce.lottery_ticket import CONV2, main

if __name__ == "__main__":
    main(CONV2)
