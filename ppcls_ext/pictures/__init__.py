"""From a picture's file to the network's input, without Paddle and PaddleClas."""
