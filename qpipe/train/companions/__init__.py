"""What trains beside a network and leaves nothing in the file: AG, SSP, fades, additional losses, distillation."""
