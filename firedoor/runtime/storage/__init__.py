"""What is kept on the disk: pieces, trees and the order log."""
